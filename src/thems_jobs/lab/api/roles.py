"""The privileges of Proxmox VE 9 and the roles it comes with."""

_VM_CONFIG = {
    "VM.Config.CDROM", "VM.Config.CPU", "VM.Config.Cloudinit", "VM.Config.Disk", "VM.Config.HWType",
    "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options",
}  # fmt: skip
_VM_AGENT = {
    "VM.GuestAgent.Audit", "VM.GuestAgent.FileRead", "VM.GuestAgent.FileSystemMgmt", "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
}  # fmt: skip
_VM_USER = {
    "VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console", "VM.GuestAgent.Audit",
    "VM.PowerMgmt",
}  # fmt: skip
_VM = {
    "VM.Allocate", "VM.Clone", "VM.Migrate", "VM.Replicate", "VM.Snapshot", "VM.Snapshot.Rollback",
    *_VM_CONFIG, *_VM_AGENT, *_VM_USER,
}  # fmt: skip
_STORAGE = {"Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"}
_AUDIT = {"VM.Audit", "VM.GuestAgent.Audit", "Datastore.Audit", "Mapping.Audit", "Pool.Audit", "SDN.Audit", "Sys.Audit"}
_OTHER = {
    "Group.Allocate", "Mapping.Modify", "Mapping.Use", "Permissions.Modify", "Pool.Allocate", "Realm.Allocate",
    "Realm.AllocateUser", "SDN.Allocate", "SDN.Use", "Sys.AccessNetwork", "Sys.Console", "Sys.Incoming",
    "Sys.Modify", "Sys.PowerMgmt", "Sys.Syslog", "User.Modify",
}  # fmt: skip
_FULL_ADMIN_ONLY = {
    "Permissions.Modify", "Realm.Allocate", "Sys.AccessNetwork", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt",
}  # fmt: skip

PRIVILEGES = frozenset(_VM | _STORAGE | _AUDIT | _OTHER)

BUILT_IN: dict[str, frozenset[str]] = {
    "Administrator": PRIVILEGES,
    "NoAccess": frozenset(),
    "PVEAdmin": PRIVILEGES - _FULL_ADMIN_ONLY,
    "PVEAuditor": frozenset(_AUDIT),
    "PVEVMAdmin": frozenset(_VM),
    "PVEVMUser": frozenset(_VM_USER),
    "PVEDatastoreAdmin": frozenset(_STORAGE),
    "PVEDatastoreUser": frozenset({"Datastore.AllocateSpace", "Datastore.Audit"}),
    "PVEPoolAdmin": frozenset({"Pool.Allocate", "Pool.Audit"}),
    "PVEPoolUser": frozenset({"Pool.Audit"}),
    "PVESDNAdmin": frozenset({"SDN.Allocate", "SDN.Audit", "SDN.Use"}),
    "PVESDNUser": frozenset({"SDN.Audit", "SDN.Use"}),
    "PVETemplateUser": frozenset({"VM.Audit", "VM.Clone"}),
}
