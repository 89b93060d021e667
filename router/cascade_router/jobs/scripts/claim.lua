-- Take a job that may be taken now: a new one, or one whose router died. Ids without a job are removed from the list.
-- KEYS: job, jobs, open. ARGV: id, lease ms. Replies token, body and milliseconds left, or nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not due or tonumber(due) > now then
  return false
end
-- The removal comes first: after it, Redis lets the script write even if its memory is full.
redis.call('ZREM', KEYS[2], ARGV[1])
local job = redis.pcall('HMGET', KEYS[1], 'state', 'body', 'deadline')
local state = job[1]
local token = (state == STATE_QUEUED or state == STATE_RUNNING) and redis.pcall('HINCRBY', KEYS[1], 'token', 1)
if type(token) ~= 'number' then
  redis.call('HDEL', KEYS[3], ARGV[1])
  return false
end
redis.call('HSET', KEYS[1], 'state', STATE_RUNNING)
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return {token, job[2], (tonumber(job[3]) or now) - now}
