package scsi

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// settings are what a unit keeps over power loss beside its reservations. They
// are immutable: a change makes new ones.
type settings struct {
	mode *modeValues // saved by MODE SELECT; nil is the default
	// Identifying information (SPC-5 §6.49); nil is none.
	number, text []byte
}

// settingsSuffix follows the unit's name in the store.
const settingsSuffix = ",settings"

// ErrSettings is returned for a unit whose kept settings cannot be read: it
// would run with another write cache or write protection than it was told.
var ErrSettings = errors.New("scsi: kept settings are not readable")

// keptSettings is how settings are written down.
type keptSettings struct {
	Version int       `json:"version"`
	Mode    *keptMode `json:"mode,omitempty"`
	Number  string    `json:"identifier,omitempty"`
	Text    string    `json:"text_identifier,omitempty"`
}

type keptMode struct {
	WCE       bool   `json:"wce"`
	DSense    bool   `json:"d_sense"`
	SWP       bool   `json:"swp"`
	TAS       bool   `json:"tas"`
	Threshold uint32 `json:"threshold,omitempty"`
	Armed     bool   `json:"threshold_enabled,omitempty"`
}

const settingsVersion = 1

func (s *settings) encode() []byte {
	k := keptSettings{Version: settingsVersion, Number: hex.EncodeToString(s.number), Text: hex.EncodeToString(s.text)}
	if m := s.mode; m != nil {
		k.Mode = &keptMode{WCE: m.wce, DSense: m.dsense, SWP: m.swp, TAS: m.tas, Threshold: m.threshold, Armed: m.armed}
	}
	b, err := json.Marshal(k)
	if err != nil {
		panic(err) // strings, numbers and booleans always encode
	}
	return b
}

// decodeSettings reads what encode wrote.
func decodeSettings(data []byte) (*settings, error) {
	var k keptSettings
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	number, err := hex.DecodeString(k.Number)
	text, err2 := hex.DecodeString(k.Text)
	if err := errors.Join(err, err2); err != nil || k.Version != settingsVersion || len(number) > maxIdentity || len(text) > maxTextIdentity {
		return nil, fmt.Errorf("%w: version %d, %d and %d bytes of identifiers (%w)", ErrSettings, k.Version, len(number), len(text), errors.Join(err))
	}
	s := &settings{number: number, text: text}
	if m := k.Mode; m != nil {
		s.mode = &modeValues{wce: m.WCE, dsense: m.DSense, swp: m.SWP, tas: m.TAS, threshold: m.Threshold, armed: m.Armed}
	}
	return s, nil
}

// savedMode is what MODE SENSE calls saved values, and what a reset returns to.
func (s *snapshot) savedMode() modeValues {
	if s.kept.mode == nil {
		return s.defaultMode()
	}
	m := *s.kept.mode
	m.wce = m.wce && s.defaultMode().wce // another device may have no cache
	return m
}

// keep has r write the settings down before it starts.
func (lu *LogicalUnit) keep(r *round, s settings) {
	lu.change(r).kept = &s
	r.keeps, r.saveAs, r.save = true, settingsSuffix, s.encode()
}

// Types of identifying information (SPC-5 §6.32) and how long it may be, in bytes.
const (
	identityNumber    = 0x00
	identityText      = 0x02
	identitySupported = 0x7f
	maxIdentity       = 64
	maxTextIdentity   = 256
)

// identityType is the type a CDB names.
func (t *Task) identityType() byte { return t.CDB[10] >> 1 }

func prepReportIdentity(t *Task) Result {
	switch t.identityType() {
	case identityNumber, identityText, identitySupported:
		return t.wantReply(be.Uint32(t.CDB[6:]))
	}
	return t.badCDB(10, 7)
}

// doReportIdentity reports what was set, and how much can be.
func doReportIdentity(t *Task) action {
	p := t.reply()
	p.u32(0)
	s := t.View.snap.kept
	switch t.identityType() {
	case identityNumber:
		p.bytes(s.number)
	case identityText:
		p.bytes(s.text)
	default:
		var longest, longestText uint16
		if t.View.lu.dev.store != nil {
			longest, longestText = maxIdentity, maxTextIdentity
		}
		p.u16(identityNumber << 9)
		p.u16(longest)
		p.u16(identityText << 9)
		p.u16(longestText)
	}
	p.length16(2)
	return t.send(&p)
}

func prepSetIdentity(t *Task) Result {
	if !t.View.lu.supports(t.op, t.View.snap) {
		return t.badCDB(1, 4)
	}
	n := be.Uint32(t.CDB[6:])
	switch kind := t.identityType(); {
	case kind != identityNumber && kind != identityText:
		return t.badCDB(10, 7)
	case kind == identityNumber && n > maxIdentity, n > maxTextIdentity:
		return t.badCDB(6, wholeByte)
	}
	return t.wantList(n)
}

// homeSetIdentity keeps identifying information; no bytes remove it. Other
// nexuses learn of the change (SPC-5 §6.49).
func homeSetIdentity(lu *LogicalUnit, t *Task, r *round) {
	next := *lu.current.kept
	value := append([]byte(nil), t.Data.Bytes()[:t.Want]...)
	if t.identityType() == identityNumber {
		next.number = value
	} else {
		next.text = value
	}
	lu.keep(r, next)
	r.attentionBut(DeviceIdentifierChanged, t.Nexus.ID)
}
