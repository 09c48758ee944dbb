-- One report of a host, as a whole: whatever was lost before, what is there
-- afterwards is complete. Commands of Redis 6.2 only; every key is in KEYS and in
-- one slot of a Cluster.
--
-- KEYS  hosts, host, load, events, left and, where commands are executed, cmd
-- ARGV  kind, host id, boot, ttl ms, load or '', horizon ms, the channel to say
--       it on or '', 1 if an answer was lost, the seq of the last event that was
--       confirmed, that of the last one that there is, the seq of this heartbeat or 0,
--       then three lists, each after its length: fields and values, events, commands
--       that are done with
--       (kind: 'beat'; 'events': nothing else; 'leave': events, and the host goes;
--       'part': events, and the host stays to its duplicate)
-- An event is its seq, the number of its fields and values, and these.
-- Returns now in ms, the boot that was there before, the seq of our last event,
-- a problem or '', 0, and up to 16 commands. Where the last event is older than the
-- one that was confirmed, a failover has lost some, and none is appended: they are
-- to be sent again, in their order. Where a later heartbeat of this boot, whose seq
-- takes the place of the 0, was here before, nothing is done: this one was late.

local hosts, host, load, events, left, cmd = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local kind, id, boot = ARGV[1], ARGV[2], ARGV[3]
local ttl, horizon, channel = tonumber(ARGV[4]), tonumber(ARGV[6]), ARGV[7]
local acked, newest, number = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local at = 11
local problem = ''

local function list()
  at = at + 1
  local n, items = tonumber(ARGV[at]), {}
  for i = 1, n do items[i] = ARGV[at + i] end
  at = at + n
  return items
end
local fields = list()
local news = list()
local done = list()

local function ms(n) return string.format('%.0f', n) end
local function try(...)
  local r = redis.pcall(...)
  if type(r) == 'table' and r.err then
    problem = r.err
    return nil
  end
  return r
end

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- What was there. A key of another type is as good as none: it is overwritten.
local old = redis.pcall('HMGET', host, 'boot', 'event_boot', 'event_seq', 'seq')
if old.err then old = {} end
local parted = redis.pcall('HMGET', left, 'boot', 'event_seq', 'seq')
if parted.err then parted = {} end
local before = old[1] or ''
-- A number that anybody may have written: one that makes no sense is none.
local function whole(text)
  return text and #text <= 15 and tonumber(string.match(text, '^%d+$') or '')
end
local function ours(text)
  local n = whole(text)
  return n and n <= newest and n or acked
end

local later = 0
if before == boot then later = whole(old[4]) or 0 end
if parted[1] == boot then later = math.max(later, whole(parted[3]) or 0) end
if number > 0 and later >= number then return {ms(now), before, ms(acked), '', ms(later)} end

local last = acked
if old[2] == boot then
  last = ours(old[3])
elseif parted[1] == boot then
  last = ours(parted[2])
elseif ARGV[8] == '1' and #news > 0 or before == '' and acked > 0 then
  -- The hash has expired, or is another's: some of this may have arrived, or what
  -- was confirmed may have been lost.
  for _, entry in ipairs(try('XREVRANGE', events, '+', '-', 'COUNT', '100') or {}) do
    local e = {}
    for i = 1, #entry[2], 2 do e[entry[2][i]] = entry[2][i + 1] end
    if e.host == id and e.boot == boot then
      last = ours(e.seq)
      break
    end
  end
end

-- First what a full Redis refuses, so that a heartbeat is done as a whole or not at all;
-- but a host leaves a full Redis too, which takes its events after that.
local add = redis.call
if kind == 'beat' then
  redis.call('ZADD', hosts, ms(now + ttl), id)
elseif kind == 'leave' or kind == 'part' then
  add = try
  if kind == 'leave' and (before == boot or before == '') then -- and not another's
    redis.call('DEL', host)
    redis.call('ZREM', hosts, id)
    redis.call('ZREM', load, id)
  end
  redis.call('DEL', left)
end

local i = 1
while i <= #news and last >= acked do
  local seq, n = tonumber(news[i]), tonumber(news[i + 1])
  if seq > last then
    add('XADD', events, 'MAXLEN', '~', '10000', '*', unpack(news, i + 2, i + 1 + n))
    last = seq
  end
  i = i + 2 + n
end

if kind == 'beat' then
  redis.call('DEL', host)
  redis.call('HSET', host, 'updated_at', ms(now), 'event_boot', boot, 'event_seq', ms(last), unpack(fields))
  redis.call('PEXPIRE', host, ms(ttl))
  if ARGV[5] == '' then
    redis.call('ZREM', load, id)
  else
    redis.call('ZADD', load, ARGV[5], id)
  end
  -- Hosts that have expired take no load, and those that did so long ago are
  -- forgotten: 100 a heartbeat, from changing places when there are more.
  local gone = redis.call('ZCOUNT', hosts, '-inf', ms(now))
  if gone > 0 then
    local from = 0
    if gone > 100 then from = now % (gone - 99) end
    redis.call('ZREM', load, unpack(redis.call('ZRANGEBYSCORE', hosts, '-inf', ms(now), 'LIMIT', ms(from), '100')))
    local forgotten = redis.call('ZRANGEBYSCORE', hosts, '-inf', ms(now - horizon), 'LIMIT', '0', '100')
    if #forgotten > 0 then
      redis.call('ZREM', load, unpack(forgotten))
      redis.call('ZREM', hosts, unpack(forgotten))
    end
  end
  -- What the last host leaves without a word goes too: not sooner than another
  -- host wants it to.
  for _, key in ipairs({hosts, load}) do
    if redis.call('PTTL', key) < horizon then redis.call('PEXPIRE', key, ms(horizon)) end
  end
elseif kind == 'leave' or kind == 'part' then
  if number > 0 then -- what is late is known by this
    try('HSET', left, 'boot', boot, 'event_seq', ms(last), 'seq', ms(number))
    try('PEXPIRE', left, ms(horizon))
  end
elseif before == boot then
  redis.call('HSET', host, 'event_boot', boot, 'event_seq', ms(last))
  if number > 0 then redis.call('HSET', host, 'seq', ms(number)) end
end
if channel ~= '' then try('PUBLISH', channel, id) end

local reply = {ms(now), before, ms(last), problem, '0'}
if cmd then
  for _, command in ipairs(done) do try('LREM', cmd, '0', command) end
  for _, command in ipairs(try('LRANGE', cmd, '0', '15') or {}) do
    if #command > 4096 then
      redis.call('LREM', cmd, '0', command)
      problem = 'a command of ' .. #command .. ' bytes was thrown away'
    else
      reply[#reply + 1] = command
    end
  end
  reply[4] = problem
end
return reply
