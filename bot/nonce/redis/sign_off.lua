-- Arguments: generation, '1' where all orders are settled.
local owner, generation = unpack(call('HMGET', row, 'lease_owner', 'generation'))
if owner and digits(generation) == ARGV[1] then
  -- First, because a full server lets a step write that has made room before.
  finish('lease')
  call('HSET', row, 'settled', ARGV[2])
end
