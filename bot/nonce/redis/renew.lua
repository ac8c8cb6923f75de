-- Arguments: generation, lifetime.
local owner, generation = unpack(call('HMGET', row, 'lease_owner', 'generation'))
if not owner or digits(generation) ~= ARGV[1] then
  return '0'
end
begin('lease', owner, ARGV[2])
return '1'
