package rpc

//go:generate go test -run TestDocumentIsCurrent -update .
