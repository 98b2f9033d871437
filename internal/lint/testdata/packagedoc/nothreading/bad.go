// Package nothreading says nothing of who may call it. Memory: none.
package nothreading // want
