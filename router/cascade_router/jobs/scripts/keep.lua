-- Renew the lease of a running job, or give the job back.
-- KEYS: job, jobs. ARGV: id, token, state (running or queued), ms until others may take it. Replies 0 if the job belongs
-- to another attempt.
local job = redis.call('HMGET', KEYS[1], 'state', 'token')
if job[1] ~= STATE_RUNNING or job[2] ~= ARGV[2] then
  return 0
end
local time = redis.call('TIME')
-- The removal comes first, as in claim.lua.
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'state', ARGV[3])
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4], ARGV[1])
return 1
