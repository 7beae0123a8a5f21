{{ vintages() }}
