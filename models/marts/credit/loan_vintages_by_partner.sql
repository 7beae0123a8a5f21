{{ vintages(by=['partner_id']) }}
