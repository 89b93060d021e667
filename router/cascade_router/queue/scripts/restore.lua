-- Restore. ARGS: (ticket, replica id) of each lease.
local pool = load_pool(1)
local leases = leases_of(pool)
for at = 1, #ARGS, 2 do
  local ticket, id = ARGS[at], ARGS[at + 1]
  unqueue(pool, ticket)
  if leases[ticket] and leases[ticket] ~= id then
    free_credit(pool, lease_of(leases[ticket], ticket))
    leases[ticket] = nil
  end
  if not leases[ticket] then
    local replica = replica_of(pool, id)
    give(replica, ticket, 1)
    plan(pool, replica, replica.endpoint, replica.capacity)
    leases[ticket] = id
  end
  lease(pool, id, ticket)
end
keep(pool)
return reply(VERDICT_DONE, { pool })
