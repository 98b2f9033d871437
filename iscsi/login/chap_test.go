package login

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestDecodeBinary(t *testing.T) {
	for _, tc := range []struct {
		name  string
		in    string
		limit int
		want  string // hex
		ok    bool
	}{
		{name: "hex", in: "0x00ff", limit: 2, want: "00ff", ok: true},
		{name: "hex in capitals", in: "0XAB", limit: 2, want: "ab", ok: true},
		{name: "hex of odd length", in: "0xabc", limit: 2, want: "0abc", ok: true},
		{name: "hex too long", in: "0x000000", limit: 2},
		{name: "odd hex too long", in: "0x00000", limit: 2},
		{name: "not hex", in: "0x0g", limit: 2},
		{name: "hex of nothing", in: "0x", limit: 2},
		{name: "base64", in: "0bAP8=", limit: 2, want: "00ff", ok: true},
		{name: "base64 without padding", in: "0BAP8", limit: 2, want: "00ff", ok: true},
		{name: "base64 too long", in: "0bAAAA", limit: 2},
		{name: "base64 with too much padding", in: "0bAP8===", limit: 9},
		{name: "base64 of impossible length", in: "0bA", limit: 2},
		{name: "base64 with stray bits", in: "0bAP9=", limit: 2},
		{name: "base64 of padding", in: "0b==", limit: 2},
		{name: "base64 with line breaks", in: "0bAP\n8=", limit: 9},
		{name: "not base64", in: "0b!!!!", limit: 9},
		{name: "no prefix", in: "00ff", limit: 9},
		{name: "other prefix", in: "0o77", limit: 9},
		{name: "decimal", in: "255", limit: 9},
		{name: "nothing", in: "", limit: 9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := decodeBinary([]byte(tc.in), tc.limit)
			if ok != tc.ok || ok && hex.EncodeToString(got) != tc.want {
				t.Errorf("got %x, %v, want %s, %v", got, ok, tc.want, tc.ok)
			}
		})
	}
}

// TestResponses compares with digests made by other means.
func TestResponses(t *testing.T) {
	challenge := make([]byte, ChallengeLen)
	for i := range challenge {
		challenge[i] = byte(i + 2)
	}
	for _, tc := range []struct {
		name string
		alg  algorithm
		want string
	}{
		{"MD5", algMD5, "57490a5c7b9392302535136562d491a6"},
		{"SHA-1", algSHA1, "c39f22d343424e5d1337b24c3d9a1d20f822f9ef"},
		{"SHA-256", algSHA256, "469475eee0614847e1f83d2d5a74db41c48a3ed1d296e0640a90bca404a7c75c"},
		{"SHA3-256", algSHA3256, "01aa682a625da8a72fc4343fed0d01b24a820882d18716531137d32c44b36544"},
	} {
		got := tc.alg.response(1, []byte("bob-secret-12345"), challenge)
		if hex.EncodeToString(got) != tc.want || len(got) != tc.alg.size() {
			t.Errorf("%s: %x, want %s", tc.name, got, tc.want)
		}
	}
}

// TestChallengesDiffer: each login draws its own challenge.
func TestChallengesDiffer(t *testing.T) {
	p := defaultPolicy()
	p.CHAP = &CHAP{Store: testUsers, Entropy: &counting{}}
	var challenges [2][]byte
	for i := range challenges {
		m := New(fixed{p})
		step(m, 0, names+"AuthMethod=CHAP\x00")
		r := step(m, 0, "CHAP_A=7\x00")
		_, c, ok := bytes.Cut(r.Data, []byte("CHAP_C="))
		if !ok || len(c) != 2+2*ChallengeLen+1 {
			t.Fatalf("no challenge: %s", show(&r))
		}
		challenges[i] = c
	}
	if bytes.Equal(challenges[0], challenges[1]) {
		t.Error("the same challenge twice")
	}
}

// TestSecretsStayInside: no reply and no reason holds a secret, nor tells an
// unknown user from a wrong secret.
func TestSecretsStayInside(t *testing.T) {
	var replies []Reply
	for _, user := range []string{"alice", "bob", "same", "empty", "nobody"} {
		p := defaultPolicy()
		p.CHAP = &CHAP{Store: testUsers, Entropy: &counting{}}
		m := New(fixed{p})
		step(m, 0, names+"AuthMethod=CHAP\x00")
		step(m, 0, "CHAP_A=7\x00")
		replies = append(replies, step(m, toOperational, "CHAP_N="+user+"\x00CHAP_R=0x"+strings.Repeat("00", 32)+"\x00CHAP_I=1\x00CHAP_C=0x01\x00"))
	}
	for _, r := range replies {
		if r.Status != replies[0].Status || r.Reason != replies[0].Reason || len(r.Data) != 0 {
			t.Errorf("%s, want %s", show(&r), show(&replies[0]))
		}
		if all := r.Reason + string(r.Data); strings.Contains(all, "secret-") {
			t.Errorf("secret in %q", all)
		}
	}
}

// FuzzCHAPDecode: what decodes is within the limit and survives a round trip.
func FuzzCHAPDecode(f *testing.F) {
	f.Add([]byte("0x00ff"), uint16(16))
	f.Add([]byte("0bAP8="), uint16(16))
	f.Fuzz(func(t *testing.T, in []byte, limit uint16) {
		out, ok := decodeBinary(in, int(limit))
		if !ok {
			return
		}
		if len(out) > int(limit) || len(out) == 0 {
			t.Fatalf("%d bytes, limit %d", len(out), limit)
		}
		again, ok := decodeBinary([]byte(encodeHex(out)), len(out))
		if !ok || !bytes.Equal(again, out) {
			t.Fatalf("%x became %x", out, again)
		}
	})
}
