-- Arguments: generation, '1' where all orders are settled.
local owner, generation, turn_owner = unpack(call('HMGET', row, 'lease_owner', 'generation', 'turn_owner'))
if owner and digits(generation) == ARGV[1] then
  -- First, because a full server lets a step write that has made room before.
  finish('lease')
  -- It may have left a request behind, whose answer nobody waits for any more.
  if turn_owner == owner then
    finish('turn')
  end
  call('HSET', row, 'settled', ARGV[2])
end
