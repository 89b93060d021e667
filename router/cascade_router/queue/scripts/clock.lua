-- The time of the server's clock in milliseconds; it is used because the routers' clocks may differ.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
