-- Take or renew the lock KEYS[1] for the router ARGV[1], for ARGV[2] milliseconds; the reply is empty.
-- If another router holds it, the reply is the milliseconds since that router was last heard from, by KEYS[2]; if it
-- never was, a very large number.
local holder = redis.pcall('GET', KEYS[1]) -- a key of another type, or that never expires, is not ours and is replaced
if type(holder) == 'string' and holder ~= ARGV[1] and redis.call('PTTL', KEYS[1]) >= 0 then
  local seen = redis.call('ZSCORE', KEYS[2], holder)
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) - (seen or 0)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
