-- Take ARGV[3] tokens, all or none, from the bucket KEYS[1], which gains ARGV[1] per second and holds at most ARGV[2].
-- Replies in how many seconds there will be enough (negative: they were taken), and how many tokens are left.
local LONGEST_MS = 30 * 24 * 3600 * 1000   -- the longest time for which an unused bucket is kept
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')   -- the time of the server, because the routers' clocks may differ
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
  redis.call('DEL', KEYS[1])
end
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(kept[1]) or burst, tonumber(kept[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local wait_s = (wanted - tokens) / rate
if tokens >= wanted then
  tokens, wait_s = tokens - wanted, -1
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.9f', tokens), 'at', string.format('%.6f', math.max(at, now)))
-- A full bucket needs no key, so the key expires when the bucket is full again.
redis.call('PEXPIRE', KEYS[1], math.min(LONGEST_MS, math.ceil((burst - tokens) / rate * 1000) + 1000))
return {string.format('%.9f', wait_s), string.format('%.9f', tokens)}
