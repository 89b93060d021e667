-- Reap. It has no ARGS.
local pool = load_pool(1)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', pool.leases, '-inf', decimal(NOW))) do free_credit(pool, member) end
-- A lease that ends later than one that begins now was not written by a router, and ends, too.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', pool.leases, '(' .. decimal(NOW + LEASE_MS), '+inf')) do
  free_credit(pool, member)
end
count_credits(pool)
for band = 0, BANDS - 1 do
  local late = redis.call('ZRANGEBYSCORE', pool.queue, decimal(band * BAND_SPAN), decimal(band * BAND_SPAN + NOW))
  for _, ticket in ipairs(late) do drop(pool, ticket, CAUSE_EXPIRED) end
end
if redis.call('ZCOUNT', ROUTERS, '-inf', '(' .. decimal(NOW - DEAD_MS)) > 0 then
  for _, ticket in ipairs(redis.call('ZRANGE', pool.queue, 0, -1)) do
    if not owned(ticket) then drop(pool, ticket, CAUSE_DEAD_ROUTER) end
  end
end
redis.call('ZREMRANGEBYSCORE', ROUTERS, '-inf', '(' .. decimal(NOW - KEEP_MS))
redis.call('ZREMRANGEBYSCORE', ROUTERS, '(' .. decimal(NOW + KEEP_MS), '+inf')
dispatch(pool)
return reply(VERDICT_DONE, { pool })
