{{/* Every alert; docs/runbooks.md has a section for each under its name. */}}

{{- define "dc.alert" -}}
- alert: {{ .name }}
  expr: {{ .expr | quote }}
  for: {{ .for }}
  labels: {severity: {{ .severity }}}
  annotations:
    summary: {{ .summary | quote }}
    {{- with .root.Values.metrics.prometheusRule.runbookUrl }}
    runbook_url: {{ printf "%s#%s" . (lower $.name) | quote }}
    {{- end }}
{{- end -}}

{{/* An expression that is true while no pod of a component is up; absent() itself would not say of which, nor where. */}}
{{- define "dc.absent" -}}
{{- $root := index . 0 -}}
{{- $up := printf "up{namespace=%q, service=%q} == 1" $root.Release.Namespace (printf "%s-%s" (include "dc.fullname" $root) (index . 2)) -}}
{{- printf "label_replace(label_replace(absent(%s), \"component\", %q, \"\", \"\"), \"namespace\", %q, \"\", \"\")" $up (index . 1) $root.Release.Namespace -}}
{{- end -}}

{{- define "dc.alerts" -}}
{{- $up := printf "up{namespace=%q, service=~%q}" .Release.Namespace (printf "%s-(router-metrics|operator)" (include "dc.fullname" .)) -}}
{{- $limit := divf (toString .Values.metrics.prometheusRule.violationPercent | float64) 100 -}}
{{ include "dc.alert" (dict "root" . "name" "CascadeObjectiveMissed" "for" "10m" "severity" "warning"
  "expr" (printf "sum by (cascade) (rate(cascade_violations_total[10m])) / sum by (cascade) (rate(cascade_requests_total[10m])) > %v" $limit)
  "summary" (printf "{{ $labels.cascade }} misses its objective for {{ $value | humanizePercentage }} of its requests.")) }}
{{ include "dc.alert" (dict "root" . "name" "CascadeRefusesWork" "for" "5m" "severity" "warning"
  "expr" `sum by (cascade) (rate(cascade_refusals_total{reason=~"QueueFull|DeadlineUnreachable|NoReplica|NoPlan|ModelFailed"}[5m])) > 0.01 * sum by (cascade) (rate(cascade_requests_total[5m]))`
  "summary" "{{ $labels.cascade }} refuses requests that it could serve with more accelerators or healthy replicas.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeReplicaEjected" "for" "5m" "severity" "warning"
  "expr" "max by (cascade, replica) (cascade_replica_healthy) == 0"
  "summary" "Replica {{ $labels.replica }} of {{ $labels.cascade }} does not answer probes.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeStoreAway" "for" "1m" "severity" "critical"
  "expr" "max by (namespace, pod) (cascade_store_away) == 1"
  "summary" "Router {{ $labels.pod }} cannot reach Redis: it continues with the last plan, without a common order over all routers.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeRoutersDisagree" "for" "5m" "severity" "warning"
  "expr" "max by (cascade) (cascade_plan_generation) - min by (cascade) (cascade_plan_generation) > 120000"
  "summary" "Routers follow plans of {{ $labels.cascade }} that are more than two minutes apart.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeNotReady" "for" "10m" "severity" "warning"
  "expr" `max by (cascade, reason) (cascade_operator_condition{type="Ready", status!="True", reason!~"Parked|PausedByUser"}) == 1`
  "summary" "{{ $labels.cascade }} is not ready: {{ $labels.reason }}.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeNotAccepted" "for" "5m" "severity" "warning"
  "expr" `max by (cascade, reason) (cascade_operator_condition{type="Accepted", status="False"}) == 1`
  "summary" "The spec or the profile of {{ $labels.cascade }} cannot be used ({{ $labels.reason }}); the last valid one stays in force.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadePlannerStalled" "for" "1m" "severity" "critical"
  "expr" "time() - cascade_operator_last_tick_timestamp_seconds > 60"
  "summary" "The operator has made no decision for {{ $value | humanizeDuration }}.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeApiServerAway" "for" "5m" "severity" "warning"
  "expr" "cascade_operator_api_available == 0"
  "summary" "The operator cannot reach the API server: plans still adapt to the load, pools do not.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeComponentDown" "for" "2m" "severity" "critical"
  "expr" (printf "%s == 0" $up)
  "summary" "{{ $labels.pod }} of {{ $labels.service }} cannot be scraped.") }}
{{ include "dc.alert" (dict "root" . "name" "CascadeComponentAbsent" "for" "5m" "severity" "critical"
  "expr" (printf "%s or %s" (include "dc.absent" (list . "router" "router-metrics")) (include "dc.absent" (list . "operator" "operator")))
  "summary" (printf "Release %s in %s has no running {{ $labels.component }}." .Release.Name .Release.Namespace)) }}
{{- end -}}
