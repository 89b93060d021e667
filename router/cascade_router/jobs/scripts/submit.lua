-- Store a new job, unless its id is known or there are too many unfinished jobs, of all tenants or of its own.
-- It follows room.lua. ARGV: id, digest, body, tenant, deadline ms, keep ms, limit, limit of a tenant.
-- Replies new, known, different, full, tenant-full or no-memory, and in how many milliseconds there should be a place.
local digest = redis.call('HGET', KEYS[1], 'digest')
if digest then
  return {digest == ARGV[2] and SUBMITTED_KNOWN or SUBMITTED_DIFFERENT, 0}
end
local open = redis.call('HGETALL', KEYS[3])
if #open / 2 > redis.call('ZCARD', KEYS[2]) then
  for at = 1, #open, 2 do
    if not redis.call('ZSCORE', KEYS[2], open[at]) then
      redis.call('HDEL', KEYS[3], open[at])
    end
  end
  open = redis.call('HGETALL', KEYS[3])
end
local all, mine, all_until, mine_until = 0, 0, math.huge, math.huge
for at = 2, #open, 2 do
  local deadline, tenant = string.match(open[at], '^(%d+) (.*)$')
  deadline = tonumber(deadline) or now
  all, all_until = all + 1, math.min(all_until, deadline)
  if tenant == ARGV[4] then
    mine, mine_until = mine + 1, math.min(mine_until, deadline)
  end
end

-- A place is free again when a job ends. When that is follows from the pace of the latest ends, and is at the latest the
-- first deadline.
local function place_in(count, deadline)
  local pace = redis.call('HMGET', KEYS[6], 'ended', 'interval')
  local ended, interval = tonumber(pace[1]), tonumber(pace[2])
  local wait = deadline - now
  if ended and interval then
    wait = math.min(wait, math.max(interval, now - ended) * all / count)
  end
  return math.ceil(math.max(0, wait))
end

if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[7]) then
  return {SUBMITTED_FULL, all > 0 and place_in(all, all_until) or 1000}
end
if mine >= tonumber(ARGV[8]) then
  return {SUBMITTED_TENANT_FULL, place_in(mine, mine_until)}
end

local function keep()
  return redis.pcall('HSET', KEYS[1], 'state', STATE_QUEUED, 'digest', ARGV[2], 'body', ARGV[3], 'tenant', ARGV[4],
    'created', now, 'deadline', now + ARGV[5], 'token', 0)
end

local kept = keep()
if is_full(kept) then
  if not make_room(ARGV[4], 0, math.huge, math.huge, 2 * #ARGV[3] + 8192) then
    return {SUBMITTED_NO_MEMORY, 0}
  end
  kept = keep()
end
if type(kept) == 'table' and kept.err then
  return kept
end
-- If the result of a job was removed, its id can be used again.
redis.call('HDEL', KEYS[1], 'removed', 'finished')
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[5] + ARGV[6])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f', now + ARGV[5]) .. ' ' .. ARGV[4])
return {SUBMITTED_NEW, 0}
