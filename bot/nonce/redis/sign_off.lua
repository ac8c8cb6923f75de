-- Arguments: generation, '1' where all orders are settled.
local owner, ends, lifetime, generation, turn_owner =
  unpack(call('HMGET', row, 'lease_owner', 'lease_until', 'lease_lifetime', 'generation', 'turn_owner'))
if owner and digits(generation) == ARGV[1] then
  -- After its end another one may have led, in writes that this server has lost.
  local settled = remaining('lease', owner, ends, lifetime) > 0 and ARGV[2] or '0'
  -- First, because a full server lets a step write that has made room before.
  finish('lease')
  -- It may have left a request behind, whose answer nobody waits for any more.
  if turn_owner == owner then
    finish('turn')
  end
  call('HSET', row, 'settled', settled)
end
