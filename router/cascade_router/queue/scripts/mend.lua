-- Mend: remove data that is not this product's from the keys of a pool, as if Redis had lost it. It has no ARGS.
-- The reply has, for each thing that was removed, its key and what was wrong.
local found = {}
local function say(key, why) found[#found + 1], found[#found + 2] = key, why end

local function of_type(key, wanted)
  local is = redis.call('TYPE', key).ok
  if is == wanted then return true end
  if is ~= 'none' then
    redis.call('UNLINK', key)
    say(key, 'removed: a ' .. is .. ' where a ' .. wanted .. ' belongs')
  end
  return false
end

of_type(ROUTERS, 'zset')
local queue, credits, leases = KEYS[2], KEYS[3], KEYS[4]
of_type(queue, 'zset')

if of_type(leases, 'zset') then
  for _, member in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    if not member:find('|', 1, true) then
      redis.call('ZREM', leases, member)
      say(leases, 'removed: no lease: ' .. member:sub(1, 80))
    end
  end
end

if of_type(credits, 'hash') then
  if redis.call('HLEN', credits) > HASH_LIMIT then
    redis.call('UNLINK', credits)
    say(credits, 'removed: more than ' .. HASH_LIMIT .. ' fields')
  else
    local flat = redis.call('HGETALL', credits)
    for i = 1, #flat, 2 do
      if field_of(flat[i], flat[i + 1]) == nil then
        redis.call('HDEL', credits, flat[i])
        say(credits, 'removed: ' .. flat[i]:sub(1, 80) .. ' = ' .. flat[i + 1]:sub(1, 80))
      end
    end
  end
end
return found
