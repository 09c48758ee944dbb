-- A command for a host. KEYS: the leader, the list of the host's commands. ARGV: what the leader must be, '' for
-- an operator; the command; when it expires, in ms; how long it is kept after that; how many may wait.
-- It answers "" if it is done, or why not.
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'leader'
end
if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[5]) then
  return 'full'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
if tonumber(ARGV[3]) <= now then
  return 'late'
end
redis.call('RPUSH', KEYS[2], ARGV[2])
local expires = tonumber(ARGV[3]) + tonumber(ARGV[4])
if redis.call('PTTL', KEYS[2]) < expires - now then
  redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', expires))
end
return ''
