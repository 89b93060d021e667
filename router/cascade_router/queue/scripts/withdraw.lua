-- Withdraw. ARGS: ticket.
local pool = load_pool(1)
local ticket = ARGS[1]
if not unqueue(pool, ticket) then
  local replica = leases_of(pool)[ticket]
  if replica then free_credit(pool, lease_of(replica, ticket)) end
end
dispatch(pool)
return reply(VERDICT_DONE, { pool })
