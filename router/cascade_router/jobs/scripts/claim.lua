-- Take a job whose time has come: a new one, or one whose router died. What is no job of ours is dropped from the list.
-- KEYS: job, jobs. ARGV: id, lease ms. Replies token, body and milliseconds left, or nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not due or tonumber(due) > now then
  return false
end
local job = redis.pcall('HMGET', KEYS[1], 'state', 'body', 'deadline')
local state = job[1]
local token = (state == 'queued' or state == 'running') and redis.pcall('HINCRBY', KEYS[1], 'token', 1)
if type(token) ~= 'number' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return false
end
redis.call('HSET', KEYS[1], 'state', 'running')
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return {token, job[2], (tonumber(job[3]) or now) - now}
