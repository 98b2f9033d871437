#include "textflag.h"

// Folding (Gopal et al., "Fast CRC Computation for Generic Polynomials Using
// PCLMULQDQ Instruction"): 128 bits of the message, multiplied by x to the
// number of bits they lie before others modulo P, may be added to those others
// without a change of the remainder. The constants are of that multiplication for
// a distance of so many bytes, in the reflected domain: rev32(x^(8n+32) mod P)<<1
// for the lower half, rev32(x^(8n-32) mod P)<<1 for the upper.
DATA factors<>+0(SB)/8, $0xdcb17aa4 // 256 bytes
DATA factors<>+8(SB)/8, $0xb9e02b86
DATA factors<>+16(SB)/8, $0xa87ab8a8 // 192
DATA factors<>+24(SB)/8, $0xab7aff2a
DATA factors<>+32(SB)/8, $0x6992cea2 // 128
DATA factors<>+40(SB)/8, $0x0d3b6092
DATA factors<>+48(SB)/8, $0x740eef02 // 64
DATA factors<>+56(SB)/8, $0x9e4addf8
GLOBL factors<>(SB), NOPTR|RODATA, $64

// FOLD adds acc, multiplied by factor, to the 64 bytes of with, into acc.
#define FOLD(acc, factor, with) \
	VPCLMULQDQ $0x00, factor, acc, Z16; \
	VPCLMULQDQ $0x11, factor, acc, acc; \
	VPTERNLOGQ $0x96, with, Z16, acc

// func fold(crc uint32, b []byte) uint32
TEXT ·fold(SB), NOSPLIT, $64-36
	MOVL crc+0(FP), AX
	MOVQ b_base+8(FP), SI
	MOVQ b_len+16(FP), CX
	VBROADCASTI32X4 factors<>+0(SB), Z8
	VBROADCASTI32X4 factors<>+16(SB), Z9
	VBROADCASTI32X4 factors<>+32(SB), Z10
	VBROADCASTI32X4 factors<>+48(SB), Z11
	VMOVDQU64 (SI), Z0
	VMOVDQU64 64(SI), Z1
	VMOVDQU64 128(SI), Z2
	VMOVDQU64 192(SI), Z3
	VMOVD AX, X4
	VPXORQ Z4, Z0, Z0
	ADDQ $256, SI
	SUBQ $256, CX
	CMPQ CX, $256
	JB   join

four:
	FOLD(Z0, Z8, (SI))
	FOLD(Z1, Z8, 64(SI))
	FOLD(Z2, Z8, 128(SI))
	FOLD(Z3, Z8, 192(SI))
	ADDQ $256, SI
	SUBQ $256, CX
	CMPQ CX, $256
	JAE  four

join:
	FOLD(Z0, Z9, Z3)
	FOLD(Z1, Z10, Z0)
	FOLD(Z2, Z11, Z1)

one:
	CMPQ CX, $64
	JB   end
	FOLD(Z2, Z11, (SI))
	ADDQ $64, SI
	SUBQ $64, CX
	JMP  one

end:
	VMOVDQU64 Z2, buf-64(SP)
	VZEROUPPER
	XORL AX, AX
	CRC32Q buf-64(SP), AX
	CRC32Q buf-56(SP), AX
	CRC32Q buf-48(SP), AX
	CRC32Q buf-40(SP), AX
	CRC32Q buf-32(SP), AX
	CRC32Q buf-24(SP), AX
	CRC32Q buf-16(SP), AX
	CRC32Q buf-8(SP), AX
	MOVL AX, ret+32(FP)
	RET
