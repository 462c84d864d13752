-- Ansible managed
-- Made once, by the member that makes the cluster; the same again changes nothing but passwords.

-- The jobs: look at everything, take a member out of service, end sessions, compare what members hold.
CREATE USER IF NOT EXISTS 'thems'@'%' REQUIRE SSL;
ALTER USER 'thems'@'%' IDENTIFIED BY 'it''s a \\secret' REQUIRE SSL;
GRANT PROCESS, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'thems'@'%';

-- The shop.
CREATE DATABASE IF NOT EXISTS `shop` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'shop'@'%';
ALTER USER 'shop'@'%' IDENTIFIED BY 'another';
GRANT ALL PRIVILEGES ON `shop`.* TO 'shop'@'%';
GRANT SELECT ON `shop`.* TO 'thems'@'%';

-- The machine's own system user: clustercheck, and copies of data for new members.
CREATE USER IF NOT EXISTS 'mysql'@'localhost' IDENTIFIED WITH auth_socket;
GRANT PROCESS, CONNECTION_ADMIN ON *.* TO 'mysql'@'localhost';
