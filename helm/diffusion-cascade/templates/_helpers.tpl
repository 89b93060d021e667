{{/* Names, labels, images and the parts that every pod shares. */}}

{{- define "dc.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{/*
The beginning of the names of all objects. Names of Services begin with a letter, have no dots and, with their suffix
(-router-metrics), at most 63 characters; a StatefulSet (-redis) with more than 52 gets no pods. A name that must be
changed or shortened for that ends in a digest of the original name, so that no two releases have the same.
*/}}
{{- define "dc.fullname" -}}
{{- $name := include "dc.name" . -}}
{{- $wanted := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- if .Values.fullnameOverride -}}
{{- $wanted = .Values.fullnameOverride -}}
{{- end -}}
{{- $fitting := $wanted | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $fitting -}}
{{- $fitting = printf "dc-%s" $fitting -}}
{{- end -}}
{{- if or (ne $fitting $wanted) (gt (len $fitting) 46) -}}
{{- $fitting = printf "%s-%s" ($fitting | trunc 37 | trimAll "-") (sha256sum $wanted | trunc 8) -}}
{{- end -}}
{{- $fitting -}}
{{- end -}}

{{/* (dict "root" $ "component" "router") → the labels that selectors use. */}}
{{- define "dc.selector" -}}
app.kubernetes.io/name: {{ include "dc.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "dc.labels" -}}
{{ include "dc.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: diffusion-cascade
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods: none that changes with every version of the chart, since that would restart the pods. */}}
{{- define "dc.podLabels" -}}
{{ include "dc.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "root" $ "image" .Values.operator.image) → the reference to pull. */}}
{{- define "dc.image" -}}
{{- $repository := .image.repository -}}
{{- if and .root.Values.image.registry (not (contains "." (first (splitList "/" $repository)))) -}}
{{- $repository = printf "%s/%s" (.root.Values.image.registry | trimSuffix "/") $repository -}}
{{- end -}}
{{- $tag := .image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- if .image.digest -}}
{{- printf "%s:%s@%s" $repository $tag .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}
{{- end -}}

{{- define "dc.serviceAccount" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- $account.name | default (printf "%s-%s" (include "dc.fullname" .root) .component) -}}
{{- else -}}
{{- $account.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* What the restricted pod security standard requires of a pod. */}}
{{- define "dc.podSecurity" -}}
runAsNonRoot: true
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- $value := get ($.Values.securityContext | default dict) $key }}
{{- if $value }}
{{ $key }}: {{ int64 $value }}
{{- end }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "dc.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "dc.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* (dict "root" $ "component" "router") → where its pods may run. */}}
{{- define "dc.placement" -}}
{{- with .at.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .at.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .at.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .at.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "dc.bundledRedis" -}}
{{- if not (or .Values.redis.url .Values.redis.existingSecret.name) -}}true{{- end -}}
{{- end -}}

{{- define "dc.redisName" -}}{{ include "dc.fullname" . }}-redis{{- end -}}

{{- define "dc.redisSecret" -}}
{{- .Values.redis.bundled.existingSecret.name | default (include "dc.redisName" .) -}}
{{- end -}}

{{- define "dc.redisSecretKey" -}}
{{- if .Values.redis.bundled.existingSecret.name -}}{{ .Values.redis.bundled.existingSecret.key }}{{- else -}}password{{- end -}}
{{- end -}}

{{/* The Secret, and the key in it, of the authority that signed Redis's certificate; empty: a public authority. */}}
{{- define "dc.redisAuthority" -}}
{{- with .Values.redis.tls.caSecret -}}
{{- if .name -}}
{secretName: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}]}
{{- else if and (include "dc.bundledRedis" $) $.Values.redis.bundled.tls.secretName -}}
{secretName: {{ $.Values.redis.bundled.tls.secretName }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The environment that router and operator share: their address and Redis. */}}
{{- define "dc.sharedEnv" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- if .Values.redis.existingSecret.name }}
- name: REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.existingSecret.name }}, key: {{ .Values.redis.existingSecret.key }}}}
{{- else if .Values.redis.url }}
{{- if regexMatch "://[^/]*:[^/@]+@|[?&]password=" .Values.redis.url }}
{{- fail "redis.url: holds a password, which everybody could read in the Deployments: put the URL into a Secret, and name that in redis.existingSecret" }}
{{- end }}
- name: REDIS_URL
  value: {{ .Values.redis.url | quote }}
{{- else }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "dc.redisSecret" . }}, key: {{ include "dc.redisSecretKey" . }}}}
- name: REDIS_URL
  value: redis{{ if .Values.redis.bundled.tls.secretName }}s{{ end }}://:$(REDIS_PASSWORD)@{{ include "dc.redisName" . }}.{{ .Release.Namespace }}.svc:6379/0
{{- end }}
{{- if include "dc.redisAuthority" . }}
- name: SSL_CERT_FILE
  value: /etc/diffusion-cascade/redis/ca.crt
{{- end }}
{{- end -}}

{{- define "dc.sharedMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if include "dc.redisAuthority" . }}
- {name: redis-ca, mountPath: /etc/diffusion-cascade/redis, readOnly: true}
{{- end }}
{{- end -}}

{{- define "dc.sharedVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with include "dc.redisAuthority" . }}
- name: redis-ca
  secret: {{ . }}
{{- end }}
{{- end -}}

{{/* "true" where the Prometheus operator's API is served. */}}
{{- define "dc.monitoring" -}}
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}true{{- end -}}
{{- end -}}

{{- /* Not empty if the definitions have their CEL rules. */}}
{{- define "dc.rules" -}}
{{- if or (eq .Values.crds.rules "always") (semverCompare ">=1.25-0" .Capabilities.KubeVersion.Version) -}}true{{- end -}}
{{- end }}
