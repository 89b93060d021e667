-- Keep a new job unless its id is known or there are too many.
-- KEYS: job, jobs, results. ARGV: id, digest, body, tenant, deadline ms, keep ms, limit. Replies new, known, different or full.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local digest = redis.call('HGET', KEYS[1], 'digest')
if digest then
  return digest == ARGV[2] and 'known' or 'different'
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
if redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[7]) then
  return 'full'
end
redis.call('HSET', KEYS[1], 'state', 'queued', 'digest', ARGV[2], 'body', ARGV[3], 'tenant', ARGV[4],
  'created', now, 'deadline', now + ARGV[5], 'token', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[5] + ARGV[6])
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 'new'
