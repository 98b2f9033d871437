package sim

// Identifying information (SPC-5 §6.32, §6.49): what was set last is kept, over
// the end of the unit and of the target.

// identities are the types of it, as the CDB has them.
var identities = [...]byte{0x00, 0x02 << 1}

// identity is value n of identifying information; 0 is none.
func identity(n uint8) []byte {
	b := make([]byte, n%61)
	for i := range b {
		b[i] = n + byte(i)
	}
	return b
}

// identify is SET IDENTIFYING INFORMATION.
func (in *initiator) identify(t *task) (c cdb) {
	r := in.rng
	t.class, t.access, t.needs, t.write = classChange, accessWrite, needPath, true
	t.change = change{kind: doIdentify, named: uint8(r.IntN(len(identities))), value: uint8(1 + r.IntN(250))}
	if r.IntN(6) == 0 {
		t.change.value = 0
	}
	t.data = append(grow(t.data, 0), identity(t.change.value)...)
	t.want = uint32(len(t.data))
	t.edtl = t.want
	t.write = t.want != 0
	c.b[0], c.b[1], c.b[10] = 0xa4, 0x06, identities[t.change.named]
	be.PutUint32(c.b[6:], t.want)
	return c
}

// askIdentity is REPORT IDENTIFYING INFORMATION.
func (in *initiator) askIdentity(t *task) (c cdb) {
	t.class, t.read, t.access, t.needs = classIdentity, true, accessUnit, needPath
	t.service = uint8(in.rng.IntN(len(identities)))
	t.want, t.edtl = 256, 256
	c.b[0], c.b[1], c.b[10] = 0xa3, 0x05, identities[t.service]
	be.PutUint32(c.b[6:], t.want)
	return c
}

// identityShown takes its data.
func (in *initiator) identityShown(t *task, lu *lun) {
	in.s.count(IdentitiesRead)
	if b := t.got; !lu.doubtful(t.call) {
		in.fits(t, lu, "identity", func(st *shared) bool {
			return len(b) >= 4 && int(be.Uint16(b[2:])) == len(b)-4 && string(b[4:]) == string(identity(st.identity[t.service]))
		})
	}
}
