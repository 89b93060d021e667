-- Give a job its end, once: by the attempt that runs it, or by whoever cancels it (an empty token).
-- KEYS: job, jobs, results. ARGV: id, token, state, result, keep ms. Replies 0 where it has an end or is another's.
local job = redis.call('HMGET', KEYS[1], 'state', 'token')
if job[1] ~= 'running' and not (job[1] == 'queued' and ARGV[2] == '') then
  return 0
end
if ARGV[2] ~= '' and ARGV[2] ~= job[2] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'result', ARGV[4], 'finished', now)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.pcall('ZREM', KEYS[2], ARGV[1])
if redis.call('TYPE', KEYS[3]).ok ~= 'zset' then
  redis.call('DEL', KEYS[3]) -- of another type, it was never ours
end
redis.call('ZADD', KEYS[3], now + ARGV[5], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return 1
