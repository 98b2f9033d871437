package iscsi

import "errors"

// Errors of the control-plane methods, one for each meaning.
var (
	ErrExists   = errors.New("already exists")
	ErrNotFound = errors.New("not found")
	ErrInvalid  = errors.New("invalid argument")
	ErrInUse    = errors.New("in use")
	ErrLimit    = errors.New("limit reached")
)
