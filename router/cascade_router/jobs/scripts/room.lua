-- Room for the results of ended jobs. It is put before finish.lua and submit.lua, and uses the same first keys and
-- arguments.
-- KEYS: job, jobs, open, results, removed, pace. ARGV: id.
-- open: hash of jobs without an end, id to "<deadline ms> <tenant>".
-- results: hash of the bytes kept by tenant; beside it "<results>:<tenant>", sorted set of "<bytes> <id>" by expiry.
-- removed: sorted set of jobs whose result was removed to make room, by expiry; at most REMOVED_LIMIT are remembered.
local REMOVED_LIMIT = 10000
local before_id = string.sub(KEYS[1], 1, -1 - #ARGV[1])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function results_of(tenant)
  return KEYS[4] .. ':' .. tenant
end

local function is_full(reply)
  return type(reply) == 'table' and reply.err and string.find(reply.err, 'OOM', 1, true) ~= nil
end

-- If a key has data of another type, which we did not write, it is deleted, and counting begins again.
local function own(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    redis.call('DEL', key)
  end
end

for at, kind in ipairs({'zset', 'hash', 'hash', 'zset', 'hash'}) do
  own(KEYS[at + 1], kind)
end

local function take_off(tenant, member)
  local bytes = tonumber(string.match(member, '^(%d+) ')) or 0
  local held = (tonumber(redis.call('HGET', KEYS[4], tenant)) or 0) - bytes
  if held > 0 then
    redis.call('HSET', KEYS[4], tenant, held)
  else
    redis.call('HDEL', KEYS[4], tenant)
  end
  return bytes
end

-- Results that expired no longer count.
local function forget_expired()
  for _, tenant in ipairs(redis.call('HKEYS', KEYS[4])) do
    local key = results_of(tenant)
    own(key, 'zset')
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now)) do
      redis.call('ZREM', key, member)
      take_off(tenant, member)
    end
    if redis.call('EXISTS', key) == 0 then
      redis.call('HDEL', KEYS[4], tenant)
    end
  end
end

-- Remove the oldest result of a tenant, and remember only that it was removed; returns its bytes.
local function remove_oldest(tenant)
  local oldest = redis.call('ZPOPMIN', results_of(tenant))
  if not oldest[1] then
    redis.call('HDEL', KEYS[4], tenant)
    return 0
  end
  local id = string.match(oldest[1], '^%d+ (.+)$') or ''
  local bytes = take_off(tenant, oldest[1])
  local gone = redis.pcall('HDEL', before_id .. id, 'image', 'result', 'digest')
  if type(gone) == 'number' and gone > 0 then
    redis.call('HSET', before_id .. id, 'removed', now)
    redis.call('ZADD', KEYS[5], oldest[2], id)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
  while redis.call('ZCARD', KEYS[5]) > REMOVED_LIMIT do
    redis.call('DEL', before_id .. redis.call('ZPOPMIN', KEYS[5])[1])
  end
  return bytes
end

-- Remove results until `bytes` more of `tenant` fit into `limit` bytes for all and `share` bytes for one tenant, and
-- `free` bytes were freed. The oldest result of the tenant with the most bytes goes first. If that is not possible, it
-- removes none and returns false.
local function make_room(tenant, bytes, limit, share, free)
  forget_expired()
  local held, total, kept = {}, 0, redis.call('HGETALL', KEYS[4])
  for at = 1, #kept, 2 do
    held[kept[at]] = tonumber(kept[at + 1]) or 0
    total = total + held[kept[at]]
  end
  if bytes > math.min(limit, share) or total < free then
    return false
  end
  while total + bytes > limit or (held[tenant] or 0) + bytes > share or free > 0 do
    local from = tenant
    if (held[tenant] or 0) + bytes <= share then
      from = next(held)
      for name, count in pairs(held) do
        from = count > held[from] and name or from
      end
      if not from then
        break
      end
    end
    local removed = remove_oldest(from)
    free = free - removed
    total = total - math.min(removed, held[from])
    held[from] = removed > 0 and held[from] > removed and held[from] - removed or nil
  end
  return true
end
