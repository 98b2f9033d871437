package sys

import "golang.org/x/sys/cpu"

// WideMultiply tells that the CPU multiplies polynomials in vectors of 512 bits,
// and that the system saves their registers.
func WideMultiply() bool {
	return cpu.X86.HasAVX512F && cpu.X86.HasAVX512VPCLMULQDQ && cpu.X86.HasSSE42
}
