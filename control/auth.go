package control

import (
	"slices"
	"strings"
	"syscall"

	"spindle/iscsi"
)

// Limits of groups of secrets.
const (
	MaxSecrets   = 64  // a group
	MaxSecretLen = 255 // bytes of a user name or a secret
)

// CreateAuthGroup makes a group of CHAP secrets.
func (c *Control) CreateAuthGroup(g iscsi.AuthGroup) error {
	c.change.Lock()
	defer c.change.Unlock()
	if err := c.auth.vacant(g.Tag); err != nil {
		return err
	}
	if err := checkSecrets(g.Secrets); err != nil {
		return err
	}
	c.Engine.SetAuthGroup(g)
	c.auth.put(g)
	return nil
}

func checkSecrets(list []iscsi.Secret) error {
	if len(list) > MaxSecrets {
		return refuse(syscall.EINVAL, "an auth group has at most %d secrets", MaxSecrets)
	}
	for i, s := range list {
		for _, text := range []string{s.User, s.Secret, s.MUser, s.MSecret} {
			if len(text) > MaxSecretLen {
				return refuse(syscall.EINVAL, "a name or secret of user %q is longer than %d bytes", s.User, MaxSecretLen)
			}
		}
		if s.User == "" || s.Secret == "" {
			return refuse(syscall.EINVAL, "a secret needs a user and a secret")
		}
		if (s.MUser == "") != (s.MSecret == "") {
			return refuse(syscall.EINVAL, "user %q: mutual authentication needs both muser and msecret", s.User)
		}
		if s.MSecret != "" && s.MSecret == s.Secret {
			// RFC 7143 §12.1.3: the two directions must not share a secret, or
			// each side could be made to answer its own challenge.
			return refuse(syscall.EINVAL, "user %q: the two directions must have different secrets", s.User)
		}
		if err := checkNames(s.User, s.Initiators); err != nil {
			return err
		}
		if slices.ContainsFunc(list[:i], func(o iscsi.Secret) bool { return o.User == s.User }) {
			return refuse(syscall.EEXIST, "user %q is given twice", s.User)
		}
	}
	return nil
}

// checkNames looks at the initiator names that a user is bound to, and has them
// in lower case, as they are compared (RFC 3722).
func checkNames(user string, names []string) error {
	if len(names) > MaxInitiators {
		return refuse(syscall.EINVAL, "user %q has more than %d initiators", user, MaxInitiators)
	}
	for i, n := range names {
		if !hasType(n) || len(n) > iscsiNameMax {
			return refuse(syscall.EINVAL, "user %q: initiator %q is not an iSCSI name", user, n)
		}
		names[i] = strings.ToLower(n)
	}
	return nil
}

// EditAuthGroup replaces the secrets of a group by what change makes of them.
func (c *Control) EditAuthGroup(tag int32, change func([]iscsi.Secret) ([]iscsi.Secret, error)) error {
	c.change.Lock()
	defer c.change.Unlock()
	g, err := c.auth.get(tag)
	if err != nil {
		return err
	}
	if g.Secrets, err = change(slices.Clone(g.Secrets)); err != nil {
		return err
	}
	if err := checkSecrets(g.Secrets); err != nil {
		return err
	}
	c.Engine.SetAuthGroup(g)
	c.auth.put(g)
	return nil
}

// RemoveSecret is a change for EditAuthGroup.
func RemoveSecret(user string) func([]iscsi.Secret) ([]iscsi.Secret, error) {
	return func(list []iscsi.Secret) ([]iscsi.Secret, error) {
		i := slices.IndexFunc(list, func(s iscsi.Secret) bool { return s.User == user })
		if i < 0 {
			return nil, refuse(syscall.ENOENT, "the group has no user %q", user)
		}
		return slices.Delete(list, i, i+1), nil
	}
}

// AddSecret is a change for EditAuthGroup.
func AddSecret(s iscsi.Secret) func([]iscsi.Secret) ([]iscsi.Secret, error) {
	return func(list []iscsi.Secret) ([]iscsi.Secret, error) { return append(list, s), nil }
}

// DeleteAuthGroup deletes a group of secrets: who needs it cannot log in any more.
func (c *Control) DeleteAuthGroup(tag int32) error {
	c.change.Lock()
	defer c.change.Unlock()
	if _, err := c.auth.get(tag); err != nil {
		return err
	}
	c.Engine.RemoveAuthGroup(tag)
	c.auth.drop(tag)
	return nil
}

// AuthGroups lists the groups of secrets, secrets included.
func (c *Control) AuthGroups() []iscsi.AuthGroup { return c.auth.all() }

// SetDiscoveryAuth says who must authenticate for discovery, from the next
// login on.
func (c *Control) SetDiscoveryAuth(a Auth) error {
	c.change.Lock()
	defer c.change.Unlock()
	if err := a.check(); err != nil {
		return err
	}
	o := c.Engine.Options()
	o.DisableCHAP, o.RequireCHAP, o.MutualCHAP, o.CHAPGroup = a.Disable, a.Require, a.Mutual, a.Group
	c.Engine.SetOptions(o)
	return nil
}
