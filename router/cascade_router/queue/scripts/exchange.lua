-- Release in the first pool and enqueue in the second. ARGS: those of release, then those of enqueue.
local left = load_pool(1)
local entered = KEYS[5] == KEYS[2] and left or load_pool(2)
give_back(left, 1)
dispatch(left)
local verdict = admit(entered, 6)
if verdict == VERDICT_DONE then dispatch(entered) end
return reply(verdict, { left, entered })
