-- Ansible managed
-- Made once, by the member that makes the cluster; the same again changes nothing but passwords.

-- The jobs: look at everything, take a member out of service, compare what members hold.
CREATE USER IF NOT EXISTS 'thems'@'%' REQUIRE SSL;
ALTER USER 'thems'@'%' IDENTIFIED BY 'it''s a \\secret' REQUIRE SSL;
GRANT PROCESS, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'thems'@'%';
-- Who holds locks: that is how backups and schema changes are seen.
GRANT SELECT ON performance_schema.metadata_locks TO 'thems'@'%';
GRANT SELECT ON performance_schema.threads TO 'thems'@'%';

-- The shop.
CREATE DATABASE IF NOT EXISTS `shop` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'shop'@'%';
ALTER USER 'shop'@'%' IDENTIFIED BY 'another';
GRANT ALL PRIVILEGES ON `shop`.* TO 'shop'@'%';
GRANT SELECT ON `shop`.* TO 'thems'@'%';

-- The machine's own system user: clustercheck, and copies of data for new members.
CREATE USER IF NOT EXISTS 'mysql'@'localhost' IDENTIFIED WITH auth_socket;
GRANT PROCESS, CONNECTION_ADMIN ON *.* TO 'mysql'@'localhost';

-- Backups, on the machine itself; a session of it tells everybody that one is under way.
CREATE USER IF NOT EXISTS 'thems_backup'@'localhost' IDENTIFIED BY '804cc58708beb873c176e9d57bac1b42eb57a1993b836b8235583e91b1f76600';
ALTER USER 'thems_backup'@'localhost' IDENTIFIED BY '804cc58708beb873c176e9d57bac1b42eb57a1993b836b8235583e91b1f76600';
GRANT BACKUP_ADMIN, RELOAD, PROCESS, LOCK TABLES, REPLICATION CLIENT ON *.* TO 'thems_backup'@'localhost';
GRANT SELECT ON performance_schema.log_status TO 'thems_backup'@'localhost';
GRANT SELECT ON performance_schema.keyring_component_status TO 'thems_backup'@'localhost';
GRANT SELECT ON performance_schema.replication_group_members TO 'thems_backup'@'localhost';
