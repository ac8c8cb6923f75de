-- Arguments: floor, ceiling, zeros behind the microseconds, generation, owner, the turn's lifetime, that of being next.
local floor, ceiling, zeros, wanted, owner, lifetime, next_lifetime = unpack(ARGV)
local last, generation, lease_owner, lease_until, lease_lifetime =
  unpack(redis.call('HMGET', row, 'nonce', 'generation', 'lease_owner', 'lease_until', 'lease_lifetime'))
last = digits(last)
if is_stale(wanted, generation, lease_owner, lease_until, lease_lifetime) then
  return {'stale', '0', last}
end

local turn_owner, turn_until, turn_lifetime, next_owner, next_until =
  unpack(redis.call('HMGET', row, 'turn_owner', 'turn_until', 'turn_lifetime', 'next_owner', 'next_until'))
local taken = turn_owner ~= owner and remaining('turn', turn_owner, turn_until, turn_lifetime) > 0
local reserved = next_owner ~= owner and remaining('next', next_owner, next_until, next_lifetime) > 0
if taken or reserved then
  if not reserved then
    begin('next', owner, next_lifetime)
  end
  return {'busy', '0', last}
end

local nonce = next_nonce(last, floor, ceiling, zeros)
if not nonce then
  return {'ahead', '0', last}
end
begin('turn', owner, lifetime)
redis.call('HSET', row, 'turn_nonce', nonce)
if next_owner == owner then
  finish('next')
end
return {'drawn', nonce, last}
