-- End a job, once: by the attempt that runs it, or by a cancellation (an empty token). If there is no room for its image,
-- the job fails.
-- It follows room.lua. ARGV: id, token, state, result, image, keep ms, limit and a tenant's limit in bytes, bytes to free
-- first, the result if there is no room. Replies the state that the job got, or nothing if it has already ended or belongs
-- to another attempt.
local RECORD = 1000   -- bytes that a job takes beside its result, about
local PART = 0.2   -- of the pace that the latest end makes up

local job = redis.call('HMGET', KEYS[1], 'state', 'token', 'tenant', 'created')
if job[1] ~= STATE_RUNNING and not (job[1] == STATE_QUEUED and ARGV[2] == '') then
  return false
end
if ARGV[2] ~= '' and ARGV[2] ~= job[2] then
  return false
end
local state, result, image, tenant = ARGV[3], ARGV[4], ARGV[5], job[3] or ''
local bytes = RECORD + #result + #image
-- If Redis's memory is full, only the first write of a script is refused.
local free = tonumber(ARGV[9])
if is_full(redis.pcall('HSET', KEYS[1], 'finished', now)) then
  free = math.max(free, 2 * bytes)
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[1], 'body')
if not make_room(tenant, bytes, tonumber(ARGV[7]), tonumber(ARGV[8]), free) and image ~= '' then
  state, result, image = STATE_FAILED, ARGV[10], ''
  bytes = RECORD + #result
end
redis.call('HSET', KEYS[1], 'state', state, 'result', result, 'finished', now)
if image ~= '' then
  redis.call('HSET', KEYS[1], 'image', image)
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
own(results_of(tenant), 'zset')
redis.call('ZADD', results_of(tenant), now + ARGV[6], string.format('%d %s', bytes, ARGV[1]))
redis.call('HSET', KEYS[4], tenant, (tonumber(redis.call('HGET', KEYS[4], tenant)) or 0) + bytes)
local pace = redis.call('HMGET', KEYS[6], 'ended', 'interval')
local took = now - math.max(tonumber(pace[1]) or 0, tonumber(job[4]) or 0)
local interval = tonumber(pace[2])
redis.call('HSET', KEYS[6], 'ended', now, 'interval', interval and interval + PART * (took - interval) or took)
for _, key in ipairs({results_of(tenant), KEYS[4], KEYS[5], KEYS[6]}) do
  redis.call('PEXPIRE', key, ARGV[6])
end
return state
