-- One report of a host, as a whole: whatever was lost before, what is there
-- afterwards is complete. Commands of Redis 6.2 only; every key is in KEYS and in
-- one slot of a Cluster.
--
-- KEYS  hosts, host, load, events and, where orders are obeyed, cmd
-- ARGV  kind, host id, boot, ttl ms, load or '', horizon ms, the channel to say
--       it on or '', 1 if an answer was lost, the seq of the last event that was
--       confirmed, that of the last one that there is, then three lists, each after
--       its length: fields and values, events, orders that are done with
--       (kind: 'beat'; 'events': nothing else; 'leave': events, and the host goes)
-- An event is its seq, the number of its fields and values, and these.
-- Returns now in ms, the boot that was there before, the seq of our last event,
-- a problem or '', and up to 16 orders. Where the last event is older than the one
-- that was confirmed, a failover has lost some, and none is appended: they are to
-- be sent again, in their order.

local hosts, host, load, events, cmd = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local kind, id, boot = ARGV[1], ARGV[2], ARGV[3]
local ttl, horizon, channel = tonumber(ARGV[4]), tonumber(ARGV[6]), ARGV[7]
local acked, newest = tonumber(ARGV[9]), tonumber(ARGV[10])
local at = 10
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
local old = redis.pcall('HMGET', host, 'boot', 'event_boot', 'event_seq')
if old.err then old = {} end
local before = old[1] or ''
-- A number that anybody may have written: one that we can't have is none.
local function ours(text)
  local n = tonumber(string.match(text or '', '^%d+$') or '')
  return n and n <= newest and n or acked
end
local last = acked
if old[2] == boot then
  last = ours(old[3])
elseif ARGV[8] == '1' and #news > 0 then
  -- The hash has expired, or is another's, and some of this may have arrived.
  for _, entry in ipairs(redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1000)) do
    local e = {}
    for i = 1, #entry[2], 2 do e[entry[2][i]] = entry[2][i + 1] end
    if e.host == id and e.boot == boot then
      last = math.max(acked, ours(e.seq))
      break
    end
  end
end

-- First what a full Redis refuses, so that a beat is done as a whole or not at all.
if kind == 'beat' then redis.call('ZADD', hosts, ms(now + ttl), id) end

local i = 1
while i <= #news and last >= acked do
  local seq, n = tonumber(news[i]), tonumber(news[i + 1])
  if seq > last then
    redis.call('XADD', events, 'MAXLEN', '~', '10000', '*', unpack(news, i + 2, i + 1 + n))
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
  -- forgotten: 100 a beat, from changing places when there are more.
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
elseif kind == 'leave' then
  if before == boot or before == '' then -- and not another's
    redis.call('DEL', host)
    redis.call('ZREM', hosts, id)
    redis.call('ZREM', load, id)
  end
elseif before == boot then
  redis.call('HSET', host, 'event_boot', boot, 'event_seq', ms(last))
end
if channel ~= '' then try('PUBLISH', channel, id) end

local reply = {ms(now), before, ms(last), problem}
if cmd then
  for _, order in ipairs(done) do try('LREM', cmd, '0', order) end
  for _, order in ipairs(try('LRANGE', cmd, '0', '15') or {}) do
    if #order > 4096 then
      redis.call('LREM', cmd, '0', order)
      problem = 'an order of ' .. #order .. ' bytes was thrown away'
    else
      reply[#reply + 1] = order
    end
  end
  reply[4] = problem
end
return reply
