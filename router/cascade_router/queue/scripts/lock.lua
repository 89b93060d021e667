-- Take or renew KEYS[1] for ARGV[1], for ARGV[2] milliseconds: replies nothing.
-- If another holds it: milliseconds since that router was last heard of, by KEYS[2] (a great many if never).
local holder = redis.pcall('GET', KEYS[1]) -- a key of another type, or without an end, was never ours, and is replaced
if type(holder) == 'string' and holder ~= ARGV[1] and redis.call('PTTL', KEYS[1]) >= 0 then
  local seen = redis.call('ZSCORE', KEYS[2], holder)
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) - (seen or 0)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
