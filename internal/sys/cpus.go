package sys

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// ErrCPUs: a text does not name a set of CPUs.
var ErrCPUs = errors.New("not a CPU mask or list")

// CPUs lists the members of s in order.
func CPUs(s CPUSet) []int {
	var list []int
	for cpu := range MaxCPUs {
		if s.IsSet(cpu) {
			list = append(list, cpu)
		}
	}
	return list
}

// ParseCPUs reads a set of CPUs: a hexadecimal mask ("0x3", "3"), or a list in
// brackets ("[0,2-5]") or with a comma or dash ("0,2-5"). The result is in
// order, without repetition, and not empty.
func ParseCPUs(text string) ([]int, error) {
	s := strings.TrimSpace(text)
	var list []int
	var err error
	if in, ok := strings.CutPrefix(s, "["); ok {
		if in, ok = strings.CutSuffix(in, "]"); !ok {
			return nil, fmt.Errorf("%q: %w", text, ErrCPUs)
		}
		list, err = parseList(in)
	} else if strings.ContainsAny(s, ",-") {
		list, err = parseList(s)
	} else {
		list, err = parseMask(s)
	}
	if err == nil && len(list) == 0 {
		err = errors.New("empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w: %w", text, ErrCPUs, err)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

func parseMask(s string) ([]int, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	if len(digits) > MaxCPUs/4 || strings.ContainsAny(digits, "+-_") {
		return nil, errors.New("mask out of range")
	}
	mask, ok := new(big.Int).SetString(digits, 16)
	if !ok {
		return nil, errors.New("not hexadecimal")
	}
	var list []int
	for cpu := range mask.BitLen() {
		if mask.Bit(cpu) != 0 {
			list = append(list, cpu)
		}
	}
	return list, nil
}

func parseList(s string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		lo, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil, err
		}
		hi := lo
		if isRange {
			if hi, err = strconv.ParseUint(to, 10, 16); err != nil {
				return nil, err
			}
		}
		if hi < lo || hi >= MaxCPUs {
			return nil, fmt.Errorf("range %q", part)
		}
		for cpu := lo; cpu <= hi; cpu++ {
			list = append(list, int(cpu))
		}
	}
	return list, nil
}
