-- Enqueue. ARGS: ticket, band, remaining_ms, limit.
local pool = load_pool(1)
local verdict = admit(pool, 1)
if verdict == VERDICT_DONE then dispatch(pool) end
return reply(verdict, { pool })
