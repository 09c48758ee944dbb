-- Who advises on an app, and what that one must remember. KEYS: the leader, the advice.
-- ARGV: "hold", "save" or "leave"; the one's id; its token, "" none; for how many ms it leads; for how many ms
-- the advice is kept; for "save" the memory, and if it is a new one, the advice.
-- It answers the token, now in ms and for a new leader the memory; or "" and who else leads.
--
-- The leader is "TOKEN ID". Each new one gets a greater token than all before, also after Redis has lost all data:
-- what one whose time has run out still writes is known by its token, and refused.
local mine = ARGV[3] .. ' ' .. ARGV[2]
local leader = redis.call('GET', KEYS[1])
if ARGV[1] == 'leave' then
  if leader == mine then redis.call('DEL', KEYS[1]) end
  return {'', ''}
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local answer = {ARGV[3], now}
if ARGV[1] == 'hold' and not leader then
  local last = redis.call('HMGET', KEYS[2], 'token', 'memory')
  local token = tonumber(now)
  for _, text in ipairs({last[1] or '', ARGV[3]}) do
    local before = tonumber(text) or 0
    if before >= 0 and before < 2 ^ 52 then token = math.max(token, before + 1) end
  end
  token = string.format('%.0f', token)
  redis.call('SET', KEYS[1], token .. ' ' .. ARGV[2], 'PX', ARGV[4])
  redis.call('HSET', KEYS[2], 'token', token, 'leader', ARGV[2])
  answer = {token, now, last[2] or ''}
elseif leader ~= mine then
  return {'', leader or ''}
else
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
if ARGV[1] == 'save' then
  redis.call('HSET', KEYS[2], 'token', ARGV[3], 'leader', ARGV[2], 'memory', ARGV[6])
  if ARGV[7] then redis.call('HSET', KEYS[2], 'advice', ARGV[7]) end
end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return answer
