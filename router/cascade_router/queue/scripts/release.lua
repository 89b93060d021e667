-- Release. ARGS: ticket, replica id, service_s or '', sharing, failed.
local pool = load_pool(1)
give_back(pool, 1)
dispatch(pool)
return reply(VERDICT_DONE, { pool })
