package login

const (
	// MaxPDUData is the longest data segment of a login PDU, either way: the
	// default MaxRecvDataSegmentLength holds during login (RFC 7143 §13.12).
	MaxPDUData = 8192
	// MaxText bounds the key text of a whole login, and of one text exchange in
	// full feature phase, in bytes.
	MaxText = 16 << 10
	// MaxPairs bounds the pairs of one text.
	MaxPairs = 1024
	// MaxReply bounds the answer to one text, in bytes: many short keys must not
	// make a long answer.
	MaxReply = 16 << 10
	// MaxRequests bounds the Login Requests of a login, and the Text Requests an
	// exchange may take to say what it wants.
	MaxRequests = 64
	// MaxTextReply bounds the answer of one text exchange in full feature phase,
	// in bytes; a longer SendTargets answer is refused.
	MaxTextReply = 1 << 20
	// MaxChallenge is the longest challenge taken from an initiator, in bytes
	// (RFC 7143 §12.1.3).
	MaxChallenge = 1024
	// ChallengeLen is the length of our challenges, in bytes.
	ChallengeLen = 32
)
