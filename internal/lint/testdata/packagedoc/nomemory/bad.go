// Package nomemory says nothing of who owns what. Threading: none.
package nomemory // want
