-- Heartbeat. ARGS: number of leases, then (ticket, replica id) of each, then the waiting tickets.
local pool = load_pool(1)
if not knows(pool) then return reply(VERDICT_UNKNOWN, { pool }) end
redis.call('ZADD', ROUTERS, decimal(NOW), CALLER)
redis.call('PEXPIRE', ROUTERS, KEEP_MS)

local missing = {}
local expires = decimal(NOW + LEASE_MS)
local at = 2
for _ = 1, tonumber(ARGS[1]) do
  local member = lease_of(ARGS[at + 1], ARGS[at])
  if redis.call('ZSCORE', pool.leases, member) then
    redis.call('ZADD', pool.leases, expires, member)
  else
    missing[#missing + 1] = ARGS[at]
  end
  at = at + 2
end

local leases
for i = at, #ARGS do
  local ticket = ARGS[i]
  if not redis.call('ZSCORE', pool.queue, ticket) then
    leases = leases or leases_of(pool)
    local id = leases[ticket]
    if id then
      redis.call('ZADD', pool.leases, expires, lease_of(id, ticket))
      grant(pool, ticket, replica_of(pool, id))
    else
      missing[#missing + 1] = ticket
    end
  end
end

local routers = redis.call('ZRANGEBYSCORE', ROUTERS, decimal(NOW - DEAD_MS), '+inf')
keep(pool)
return reply(VERDICT_DONE, { pool }, missing, routers)
