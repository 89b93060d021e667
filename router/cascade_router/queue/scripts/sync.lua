-- Sync. ARGS: generation, spread, then (id, endpoint, capacity, service_s) of each replica.
local pool = load_pool(1)
local generation = tonumber(ARGS[1])
redis.call('ZADD', ROUTERS, 'NX', decimal(NOW), CALLER)
redis.call('PEXPIRE', ROUTERS, KEEP_MS)
if pool.generation and generation < pool.generation then
  keep(pool)
  return reply(VERDICT_DONE, { pool })
end
pool.generation, pool.spread = generation, ARGS[2]
redis.call('HSET', pool.credits, 'generation', decimal(generation), 'spread', ARGS[2])

local planned = {}
for at = 3, #ARGS, 4 do planned[ARGS[at]] = true end
local left_out = {}
for id, replica in pairs(pool.replicas) do
  if not planned[id] then left_out[#left_out + 1] = replica end
end
for _, replica in ipairs(left_out) do
  if replica.used <= 0 then forget(pool, replica) else plan(pool, replica, replica.endpoint, 0) end
end
for at = 3, #ARGS, 4 do
  local replica = replica_of(pool, ARGS[at])
  if replica.endpoint == '' then replica.service_s, replica.held_until = tonumber(ARGS[at + 3]), 0 end
  plan(pool, replica, ARGS[at + 1], tonumber(ARGS[at + 2]))
end

if serving(pool) then
  dispatch(pool)
else
  for _, ticket in ipairs(redis.call('ZRANGE', pool.queue, 0, -1)) do drop(pool, ticket, CAUSE_NO_REPLICA) end
end
keep(pool)
return reply(VERDICT_DONE, { pool })
