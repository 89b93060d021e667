-- What all operations share. It follows dispatch.py, which explains the rules.
--
-- KEYS: routers, then (queue, credits, leases) of each pool.
-- ARGV: the calling router, the names of the pools, then ARGS, the operation's own arguments.
-- Defined in front of this text: now_ms(), and the constants of calls.py.
local ROUTERS = KEYS[1]
local CALLER = ARGV[1]
local POOLS = (#KEYS - 1) / 3
local ARGS = {}
for i = 2 + POOLS, #ARGV do ARGS[#ARGS + 1] = ARGV[i] end

local NOW = now_ms()
local grants, drops = {}, {} -- those of the calling router

local function decimal(number) return string.format('%.17g', number) end

-- Compares bytes, since `<` on strings follows the server's locale.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function owner_of(ticket) return ticket:match('@([^@]*)$') or ticket end

-- The work of a ticket's image, in thousandths of an image of the default size.
local function work_of(ticket)
  local digits = ticket:match('~([0-9]+)@[^@]*$')
  if not digits or #digits > 7 then return UNIT end
  return math.max(tonumber(digits), 1)
end

-- Leases are members '<replica>|<ticket>', scored by when they expire.
local function lease_of(replica, ticket) return replica .. '|' .. ticket end

local function parse_lease(member)
  local bar = member:find('|', 1, true)
  return member:sub(1, bar - 1), member:sub(bar + 1)
end

-- The fields of a pool's hash: 'generation', 'spread', 'work' (of what waits), and for each replica '<kind>:<id>'.
local FIELDS = { ['c:'] = 'capacity', [IN_USE_FIELD] = 'used', ['l:'] = 'load', ['s:'] = 'service_s', ['h:'] = 'held_until', ['e:'] = 'endpoint' }
-- The largest and smallest valid numbers.
local MOST = { generation = NOW + GENERATION_AHEAD_MS, work = 1e13, capacity = 1e6, used = 1e6, load = 1e13, service_s = 1e6, held_until = NOW + 3600000 }
local LEAST = { generation = 0, work = -1e13, capacity = 0, used = -1e6, load = -1e13, service_s = 1e-12, held_until = 0 }

-- The kind and value of a field; nothing if it is not one of ours.
local function field_of(name, value)
  local kind = (name == 'generation' or name == 'spread' or name == 'work') and name or FIELDS[name:sub(1, 2)]
  if kind == 'spread' or kind == 'endpoint' or kind == nil then return kind, value end
  local number = tonumber(value)
  if number and number >= LEAST[kind] and number <= MOST[kind] then return kind, number end
end

local function replica_of(pool, id)
  local replica = pool.replicas[id]
  if not replica then
    replica = { id = id, capacity = 0, used = 0, load = 0, service_s = UNKNOWN_SERVICE_S, held_until = 0, endpoint = '' }
    pool.replicas[id] = replica
  end
  return replica
end

local function load_pool(index)
  local first = 2 + (index - 1) * 3
  local pool = { name = ARGV[1 + index], queue = KEYS[first], credits = KEYS[first + 1], leases = KEYS[first + 2], replicas = {}, work = 0 }
  local flat = redis.call('HGETALL', pool.credits)
  for i = 1, #flat, 2 do
    local name = flat[i]
    local kind, value = field_of(name, flat[i + 1])
    if kind == 'generation' or kind == 'spread' or kind == 'work' then
      pool[kind] = value
    elseif kind then
      replica_of(pool, name:sub(3))[kind] = value
    else
      -- On this error the router goes on without Redis; when it returns, `mend` removes the bad data.
      error('bad data in ' .. pool.credits)
    end
  end
  return pool
end

-- Writes what operations change in a replica; `plan` writes what plans change.
local function save(pool, replica)
  redis.call('HSET', pool.credits, IN_USE_FIELD .. replica.id, decimal(replica.used), 'l:' .. replica.id, decimal(replica.load),
    's:' .. replica.id, decimal(replica.service_s), 'h:' .. replica.id, decimal(replica.held_until))
end

local function plan(pool, replica, endpoint, capacity)
  replica.endpoint, replica.capacity = endpoint, capacity
  redis.call('HSET', pool.credits, 'c:' .. replica.id, decimal(capacity), 'e:' .. replica.id, endpoint)
  save(pool, replica)
end

local function forget(pool, replica)
  pool.replicas[replica.id] = nil
  redis.call('HDEL', pool.credits, 'c:' .. replica.id, IN_USE_FIELD .. replica.id, 'l:' .. replica.id, 's:' .. replica.id,
    'h:' .. replica.id, 'e:' .. replica.id)
end

-- Counts a ticket as in flight on a replica; -1: no longer.
local function give(replica, ticket, credits)
  replica.used = replica.used + credits
  replica.load = replica.load + credits * work_of(ticket)
end

-- Sets the work of what waits; without a generation there is no hash, and none may be made that never expires.
local function set_work(pool, work)
  pool.work = work
  if pool.generation then redis.call('HSET', pool.credits, 'work', decimal(work)) end
end

-- Takes a ticket out of the queue; false if it does not wait there.
local function unqueue(pool, ticket)
  if redis.call('ZREM', pool.queue, ticket) == 0 then return false end
  set_work(pool, pool.work - work_of(ticket))
  return true
end

-- Every heartbeat renews the expiry of a pool's keys; an operation that creates a key sets its expiry at once.
local function keep(pool)
  redis.call('PEXPIRE', pool.queue, KEEP_MS)
  redis.call('PEXPIRE', pool.credits, KEEP_MS)
  redis.call('PEXPIRE', pool.leases, KEEP_MS)
end

local function serving(pool)
  for _, replica in pairs(pool.replicas) do
    if replica.capacity > 0 then return true end
  end
  return false
end

local function load_of(pool)
  local waiting, in_flight, free, rate, work = redis.call('ZCARD', pool.queue), 0, 0, 0, pool.work
  for _, replica in pairs(pool.replicas) do
    in_flight = in_flight + replica.used
    work = work + replica.load
    if replica.capacity > 0 then
      free = free + math.max(replica.capacity - replica.used, 0)
      rate = rate + 1 / replica.service_s
    end
  end
  local wait_s = 0
  if rate == 0 then
    wait_s = math.huge
  elseif waiting >= free then
    local turn = waiting + in_flight > 0 and work / (waiting + in_flight) or UNIT
    wait_s = math.max(pool.work + (1 - free) * turn, 0) / UNIT / rate
  end
  local ahead = {}
  for band = 1, BANDS_TOLD do
    ahead[band] = waiting == 0 and 0 or redis.call('ZCOUNT', pool.queue, '-inf', '(' .. decimal(band * BAND_SPAN))
  end
  return { pool.name, waiting, in_flight, decimal(wait_s), ahead }
end

local function reply(verdict, pools, missing, routers)
  local loads = {}
  for _, pool in ipairs(pools) do loads[#loads + 1] = load_of(pool) end
  -- JSON, because clients read one string much faster than nested arrays
  return cjson.encode({ verdict, grants, drops, loads, missing or {}, routers or {} })
end

local function tell(ticket, message)
  message.routers, message.ticket = ROUTERS, ticket
  redis.call('PUBLISH', CHANNEL .. owner_of(ticket), cjson.encode(message))
end

local function grant(pool, ticket, replica)
  if owner_of(ticket) == CALLER then
    grants[#grants + 1] = { pool.name, ticket, replica.id, replica.endpoint, replica.load }
  else
    tell(ticket, { pool = pool.name, replica = replica.id, endpoint = replica.endpoint, sharing = replica.load })
  end
end

local function drop(pool, ticket, cause)
  unqueue(pool, ticket)
  if owner_of(ticket) == CALLER then
    drops[#drops + 1] = { pool.name, ticket, cause }
  else
    tell(ticket, { pool = pool.name, cause = cause })
  end
end

local function alive(router)
  local seen = redis.call('ZSCORE', ROUTERS, router)
  return seen and tonumber(seen) >= NOW - DEAD_MS
end

local function owned(ticket)
  local owner = owner_of(ticket)
  return owner == CALLER or alive(owner)
end

local function knows(pool) return pool.generation and redis.call('ZSCORE', ROUTERS, CALLER) end

local function draw_of(ticket)
  local draw = DRAW_START
  for i = 1, #ticket do draw = (draw * DRAW_FACTOR + ticket:byte(i)) % DRAW_MODULUS end
  return draw
end

local function free_replicas(pool)
  local free = {}
  for _, replica in pairs(pool.replicas) do
    if replica.used < replica.capacity and replica.held_until <= NOW then free[#free + 1] = replica end
  end
  return free
end

local function choose(pool, free, ticket)
  if pool.spread == RANDOM then
    table.sort(free, function(a, b) return before(a.id, b.id) end)
    return free[draw_of(ticket) % #free + 1]
  end
  local best, best_wait
  local work = work_of(ticket)
  for _, replica in ipairs(free) do
    local wait = (replica.load + work) * replica.service_s
    if not best or wait < best_wait or (wait == best_wait and before(replica.id, best.id)) then
      best, best_wait = replica, wait
    end
  end
  return best
end

-- Adds or renews a lease; false if it exists already, so that a ticket that comes twice is not counted twice.
local function lease(pool, id, ticket)
  local new = redis.call('ZADD', pool.leases, decimal(NOW + LEASE_MS), lease_of(id, ticket)) == 1
  if new and redis.call('ZCARD', pool.leases) == 1 then redis.call('PEXPIRE', pool.leases, KEEP_MS) end
  return new
end

-- Gives free credits to the most urgent entries, and drops entries at the head of the queue that nobody wants.
local function dispatch(pool)
  while true do
    local free = free_replicas(pool)
    if #free == 0 then return end
    local head = redis.call('ZRANGE', pool.queue, 0, 0, 'WITHSCORES')
    if #head == 0 then return end
    local ticket = head[1]
    if tonumber(head[2]) % BAND_SPAN <= NOW then
      drop(pool, ticket, CAUSE_EXPIRED)
    elseif not owned(ticket) then
      drop(pool, ticket, CAUSE_DEAD_ROUTER)
    else
      local replica = choose(pool, free, ticket)
      unqueue(pool, ticket)
      if lease(pool, replica.id, ticket) then give(replica, ticket, 1) end
      save(pool, replica)
      grant(pool, ticket, replica)
    end
  end
end

-- Ends a lease without a sample of the service time.
local function free_credit(pool, member)
  if redis.call('ZREM', pool.leases, member) == 0 then return end
  local id, ticket = parse_lease(member)
  local replica = replica_of(pool, id)
  give(replica, ticket, -1)
  save(pool, replica)
end

-- The leases of a pool, as {ticket = replica id}.
local function leases_of(pool)
  local leases = {}
  for _, member in ipairs(redis.call('ZRANGE', pool.leases, 0, -1)) do
    local replica, ticket = parse_lease(member)
    leases[ticket] = replica
  end
  return leases
end

-- Counts what is in flight and what waits anew, in case somebody changed it.
local function count_credits(pool)
  local used, load, work = {}, {}, 0
  for ticket, id in pairs(leases_of(pool)) do
    used[id] = (used[id] or 0) + 1
    load[id] = (load[id] or 0) + work_of(ticket)
  end
  for id, replica in pairs(pool.replicas) do
    if replica.used ~= (used[id] or 0) or replica.load ~= (load[id] or 0) then
      replica.used, replica.load = used[id] or 0, load[id] or 0
      save(pool, replica)
    end
  end
  for _, ticket in ipairs(redis.call('ZRANGE', pool.queue, 0, -1)) do work = work + work_of(ticket) end
  if work ~= pool.work then set_work(pool, work) end
end

-- ARGS from `at`: ticket, replica id, service_s or '', sharing, failed (0 or 1).
local function give_back(pool, at)
  local ticket, id, service_s = ARGS[at], ARGS[at + 1], tonumber(ARGS[at + 2])
  local sharing, failed = tonumber(ARGS[at + 3]), ARGS[at + 4] == '1'
  if redis.call('ZREM', pool.leases, lease_of(id, ticket)) == 0 then return end
  local replica = replica_of(pool, id)
  if failed then
    replica.held_until = NOW + HOLD_MS
  elseif service_s then
    local work = math.max(sharing, replica.load, work_of(ticket))
    local sample = math.max(service_s * UNIT / work, SHORTEST_SERVICE_S)
    replica.service_s = replica.service_s + SMOOTHING * (sample - replica.service_s)
  end
  give(replica, ticket, -1)
  save(pool, replica)
end

-- ARGS from `at`: ticket, band, remaining_ms, limit.
local function admit(pool, at)
  if not knows(pool) then return VERDICT_UNKNOWN end
  if not serving(pool) then return VERDICT_NO_REPLICA end
  local waiting = redis.call('ZCARD', pool.queue)
  if waiting >= tonumber(ARGS[at + 3]) then return VERDICT_FULL end
  local score = decimal(tonumber(ARGS[at + 1]) * BAND_SPAN + NOW + tonumber(ARGS[at + 2]))
  if redis.call('ZADD', pool.queue, score, ARGS[at]) == 1 then set_work(pool, pool.work + work_of(ARGS[at])) end
  if waiting == 0 then redis.call('PEXPIRE', pool.queue, KEEP_MS) end
  return VERDICT_DONE
end
