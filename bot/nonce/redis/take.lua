-- Arguments: the wish as for a draw, owner, the turn's lifetime, that of being next, for how long the owner has waited.
local wish, owner, lifetime, next_lifetime, waited = unpack(ARGV)
local floor, ceiling, zeros, wanted = wish:match('(%d+) (%d+) (0*) (%d+)')
local last, is_stale = last_nonce(wanted)
if is_stale then
  return 'stale 0 ' .. last
end

local turn_owner, turn_until, turn_lifetime, next_owner, next_until, next_since =
  unpack(call('HMGET', row, 'turn_owner', 'turn_until', 'turn_lifetime', 'next_owner', 'next_until', 'next_since'))
local blocked = remaining('turn', turn_owner, turn_until, turn_lifetime) > 0
local reserved_for = remaining('next', next_owner, next_until, next_lifetime)
local since = now - duration(waited)
local reserved = reserved_for > 0 and next_owner ~= owner and duration(next_since) <= since
if blocked then
  blocked = turn_owner ~= owner
else
  blocked = reserved
end
if blocked then
  if reserved then
    return 'busy 0 ' .. last
  end
  if next_owner ~= owner or reserved_for <= duration(next_lifetime) / 2 then
    begin('next', owner, next_lifetime)
    call('HSET', row, 'next_since', string.format('%.0f', since))
  end
  return 'next 0 ' .. last
end

local nonce = next_nonce(last, floor, ceiling, zeros)
if not nonce then
  return 'ahead 0 ' .. last
end
begin('turn', owner, lifetime)
call('HSET', row, 'turn_nonce', nonce)
if next_owner == owner then
  finish('next')
end
return 'drawn ' .. nonce .. ' ' .. last
