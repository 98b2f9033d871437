package rpc

import (
	"spindle/control"
	"spindle/iscsi"
)

// chapParams are the authentication flags that nodes, discovery and the
// engine's options share.
var chapParams = []Param{
	{Name: "disable_chap", Type: Bool, Doc: "do not authenticate"},
	{Name: "require_chap", Type: Bool, Doc: "let nobody in without CHAP"},
	{Name: "mutual_chap", Type: Bool, Doc: "prove who the target is, too; needs require_chap"},
	{Name: "chap_group", Type: Int32, Doc: "auth group that has the secrets"},
}

func auth(a Args) control.Auth {
	return control.Auth{Disable: a.Bool("disable_chap"), Require: a.Bool("require_chap"), Mutual: a.Bool("mutual_chap"), Group: int32(a.Int("chap_group"))}
}

func secret(a Args) iscsi.Secret {
	return iscsi.Secret{
		User: a.String("user"), Secret: a.String("secret"), MUser: a.String("muser"), MSecret: a.String("msecret"),
		Initiators: a.Strings("initiators"),
	}
}

func authMethods() []Method {
	tag := Param{Name: "tag", Type: Int32, Required: true, Min: 1, Max: 1<<31 - 1, Doc: "number of the group"}
	user := Param{Name: "user", Type: String, Required: true, Doc: "name the initiator gives"}
	secrets := one(user,
		Param{Name: "secret", Type: String, Required: true, Doc: "what it proves to know"},
		Param{Name: "muser", Type: String, Doc: "name the target gives in mutual CHAP"},
		Param{Name: "msecret", Type: String, Doc: "what the target proves to know"},
		Param{Name: "initiators", Type: Strings, MaxItems: control.MaxInitiators, Doc: "names under which this user may log in; any, when it is left out"})
	const hint = `"spindle rpc iscsi_get_auth_groups" lists them`
	return []Method{
		{
			Name: "iscsi_create_auth_group", Aliases: []string{"add_iscsi_auth_group"}, State: Runtime,
			Params: one(tag, Param{Name: "secrets", Type: Objects, MaxItems: control.MaxSecrets, Fields: secrets, Doc: "users"}),
			Result: "true", Doc: "Make a group of CHAP secrets.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				g := iscsi.AuthGroup{Tag: int32(r.Int("tag"))}
				for _, s := range r.Objects("secrets") {
					g.Secrets = append(g.Secrets, secret(s))
				}
				return true, r.ctl.CreateAuthGroup(g)
			},
		},
		{
			Name: "iscsi_delete_auth_group", Aliases: []string{"delete_iscsi_auth_group"}, State: Runtime, Params: one(tag), Result: "true",
			Doc: "Delete a group of secrets.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) { return true, r.ctl.DeleteAuthGroup(int32(r.Int("tag"))) },
		},
		{
			Name: "iscsi_auth_group_add_secret", Aliases: []string{"add_secret_to_iscsi_auth_group"}, State: Runtime,
			Params: append(one(tag), secrets...), Result: "true", Doc: "Add a user.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				return true, r.ctl.EditAuthGroup(int32(r.Int("tag")), control.AddSecret(secret(r.Args)))
			},
		},
		{
			Name: "iscsi_auth_group_remove_secret", Aliases: []string{"delete_secret_from_iscsi_auth_group"}, State: Runtime,
			Params: one(tag, user), Result: "true", Doc: "Remove a user.", Hint: hint, bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) {
				return true, r.ctl.EditAuthGroup(int32(r.Int("tag")), control.RemoveSecret(r.String("user")))
			},
		},
		{
			Name: "iscsi_get_auth_groups", Aliases: []string{"get_iscsi_auth_groups"}, State: Runtime, Params: one(withSecrets),
			Result: "array of {tag, secrets: [{user, secret, muser, msecret, initiators}]}", Doc: "List the groups of secrets.", bad: invalidParams,
			run: func(r *request) (any, error) {
				list := []control.Obj{}
				for _, g := range r.ctl.AuthGroups() {
					list = append(list, control.AuthParams(g, r.Bool("with_secrets")))
				}
				return list, nil
			},
		},
		{
			Name: "iscsi_set_discovery_auth", Aliases: []string{"set_iscsi_discovery_auth"}, State: Runtime, Params: chapParams,
			Result: "true", Doc: "Choose who must authenticate for discovery.", bad: invalidParams, fails: invalidParams,
			run: func(r *request) (any, error) { return true, r.ctl.SetDiscoveryAuth(auth(r.Args)) },
		},
	}
}
