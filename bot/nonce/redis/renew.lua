-- Arguments: generation, lifetime. A lease that ran out is not brought back: another one may have led since, in writes
-- that this server has lost.
local owner, ends, lifetime, generation =
  unpack(call('HMGET', row, 'lease_owner', 'lease_until', 'lease_lifetime', 'generation'))
if digits(generation) ~= ARGV[1] or remaining('lease', owner, ends, lifetime) == 0 then
  return '0'
end
begin('lease', owner, ARGV[2])
return '1'
