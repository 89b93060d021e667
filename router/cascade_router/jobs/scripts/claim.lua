-- Take a job whose time has come: a new one, or one whose router died.
-- KEYS: job, jobs. ARGV: id, lease ms. Replies token, body and milliseconds left, or nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not due or tonumber(due) > now then
  return false
end
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return false
end
redis.call('HSET', KEYS[1], 'state', 'running')
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
local job = redis.call('HMGET', KEYS[1], 'body', 'deadline')
return {token, job[1], job[2] - now}
