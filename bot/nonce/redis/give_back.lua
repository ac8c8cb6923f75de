-- Argument: the nonce that the turn was taken with. By it alone, as an owner may have taken another turn since.
if call('HGET', row, 'turn_nonce') == ARGV[1] then
  finish('turn')
end
