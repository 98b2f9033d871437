package bdev

import (
	"errors"
	"testing"
)

func TestNameUUID(t *testing.T) {
	// The value is fixed: initiators remember what is derived from it.
	u := NameUUID("Malloc0")
	if got := u.String(); got != "2f2df91c-0cf7-5403-87ed-76715411b23c" {
		t.Errorf("Malloc0 is %s", got)
	}
	if u[6]>>4 != 5 || u[8]>>6 != 2 {
		t.Errorf("%s is not of version 5", u)
	}
	if NameUUID("Malloc1") == u || NameUUID("Malloc0") != u {
		t.Error("not a function of the name")
	}
	naa := u.NAA()
	if naa[0]>>4 != 3 || naa == NameUUID("Malloc1").NAA() || naa != u.NAA() {
		t.Errorf("NAA %x", naa)
	}
	if s := u.Serial(); len(s) != 32 {
		t.Errorf("serial %q", s)
	}
}

func TestParseUUID(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		ok         bool
	}{
		{"round trip", NameUUID("x").String(), true},
		{"upper case", "360EC44F-6C5A-5B4E-9D0A-217A0E615D53", true},
		{"empty", "", false},
		{"no dashes", "360ec44f6c5a5b4e9d0a217a0e615d530000", false},
		{"not hexadecimal", "360ec44f-6c5a-5b4e-9d0a-217a0e615d5g", false},
		{"long", NameUUID("x").String() + "0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := ParseUUID(tt.text)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, ErrUUID) {
				t.Fatalf("%v", err)
			}
			if v, err := ParseUUID(u.String()); tt.ok && (err != nil || v != u) {
				t.Fatalf("%v does not read back: %v, %v", u, v, err)
			}
		})
	}
}
