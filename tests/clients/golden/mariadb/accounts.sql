-- Ansible managed
-- Made once, by the member that makes the cluster; the same again changes nothing but passwords.

-- The jobs: look at everything, take a member out of service, compare what members hold.
CREATE USER IF NOT EXISTS 'thems'@'%' REQUIRE SSL;
ALTER USER 'thems'@'%' IDENTIFIED BY 'it''s a \\secret' REQUIRE SSL;
GRANT PROCESS, SUPER, CONNECTION ADMIN ON *.* TO 'thems'@'%';

-- The shop.
CREATE DATABASE IF NOT EXISTS `shop` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'shop'@'%';
ALTER USER 'shop'@'%' IDENTIFIED BY 'another';
GRANT ALL PRIVILEGES ON `shop`.* TO 'shop'@'%';
GRANT SELECT ON `shop`.* TO 'thems'@'%';

-- The machine's own system user: clustercheck, and copies of data for new members.
CREATE USER IF NOT EXISTS 'mysql'@'localhost' IDENTIFIED VIA unix_socket;
GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, CONNECTION ADMIN ON *.* TO 'mysql'@'localhost';

-- Backups, on the machine itself; a session of it tells everybody that one is under way.
CREATE USER IF NOT EXISTS 'thems_backup'@'localhost' IDENTIFIED BY '804cc58708beb873c176e9d57bac1b42eb57a1993b836b8235583e91b1f76600';
ALTER USER 'thems_backup'@'localhost' IDENTIFIED BY '804cc58708beb873c176e9d57bac1b42eb57a1993b836b8235583e91b1f76600';
GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, SLAVE MONITOR ON *.* TO 'thems_backup'@'localhost';
